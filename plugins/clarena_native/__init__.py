"""What CLArena ships: strategies, backbones, benchmarks and targets, through the same door as everyone's plugins.

Everything is registered by reference, with the first sentence of its docstring, so that a list of names imports
nothing heavy; `clarena doctor` compares the two.
"""

from clarena import hookimpl
from clarena.hookspecs import Register

STRATEGIES = {
    "finetune": (
        "references.finetune:Finetune",
        "Trains on each experience in turn, with no protection against forgetting",
    ),
    "joint": ("references.joint:Joint", "Trains once on the data of the whole stream; the upper bound"),
    "cumulative": (
        "references.cumulative:Cumulative",
        "Trains at each experience on all the data seen so far; a bound over time",
    ),
    "ewc": (
        "regularisation.ewc:EWC",
        "Elastic weight consolidation: weights that mattered are held near where they were, as by springs",
    ),
    "mas": (
        "regularisation.mas:MAS",
        "Memory-aware synapses: weights to which the outputs are sensitive are held where they were",
    ),
    "si": (
        "regularisation.si:SI",
        "Synaptic intelligence: weights that brought the loss down along their path are held near where they were",
    ),
    "l2": (
        "regularisation.l2:L2",
        "Holds every weight equally near where the last experience left it; the control for EWC, MAS and SI",
    ),
    "lwf": (
        "distillation.lwf:LwF",
        "Learning without forgetting: the old outputs on new inputs are kept, by distillation",
    ),
    "er": ("replay.er:ER", "Experience replay: every step also trains on exemplars drawn from a buffer"),
    "der": (
        "replay.der:DER",
        "Dark experience replay: stored samples keep the scores they had, as targets",
    ),
    "der++": ("replay.der:DERPlusPlus", "DER++: dark experience replay that also replays the labels of a second draw"),
    "gem": (
        "projection.gem:GEM",
        "Gradient episodic memory: no step may raise the loss on what is remembered of any past experience",
    ),
    "agem": (
        "projection.agem:AGEM",
        "Averaged gradient episodic memory: no step may raise the loss on a random batch of the past",
    ),
    "mer": (
        "meta.mer:MER",
        "Meta-experience replay: steps on single samples, old and new, that Reptile makes agree with each other",
    ),
    "la-maml": (
        "meta.la_maml:LaMAML",
        "Look-ahead meta-learning: every parameter learns how fast it may move without harm to the past",
    ),
    "c-maml": (
        "meta.la_maml:CMAML",
        "Continual meta-learning: weights move so that a few steps on new samples do no harm to the past",
    ),
    "icarl": (
        "replay.icarl:ICaRL",
        "iCaRL: herded exemplars, distillation by sigmoids, and the nearest mean of exemplars as classifier",
    ),
    "scr": (
        "replay.scr:SCR",
        "Supervised contrastive replay: views of a class are drawn together, and the nearest mean of exemplars decides",
    ),
    "pnn": (
        "architecture.pnn:PNN",
        "Progressive neural networks: each task gets a new column, which reads the features of older, frozen ones",
    ),
    "den": (
        "architecture.den:DEN",
        "Dynamically expandable networks: retrains units a task needs, adds those it lacks, splits those that drift",
    ),
    "expand": (
        "architecture.expand:Expand",
        "Expandable representation: every experience adds a backbone beside the older ones, which are frozen",
    ),
    "gdumb": ("replay.gdumb:GDumb", "Fills a balanced buffer and trains from scratch on it alone"),
    "l2p": (
        "prompts.l2p:L2P",
        "Learning to prompt: a frozen backbone is given, before the tokens of an input, the prompts nearest to it",
    ),
    "lora": (
        "adapters.lora:LoRA",
        "Low-rank adaptation: terms of a frozen backbone's weights are trained on in every experience; a control",
    ),
    "o-lora": (
        "adapters.o_lora:OLoRA",
        "O-LoRA: each experience has low-rank terms of its own, held orthogonal to those of the earlier ones",
    ),
    "n-lora": (
        "adapters.n_lora:NLoRA",
        "N-LoRA: each experience has low-rank terms of its own, made sparse so that they seldom meet older ones",
    ),
    "slao": (
        "adapters.slao:SLAO",
        "SLAO: one low-rank adaptation is learned on in every experience, and merged with what was there before it",
    ),
    "inflora": (
        "adapters.inflora:InfLoRA",
        "InfLoRA: each experience has low-rank terms that see only what the inputs of earlier ones left free",
    ),
    "sd-lora": (
        "adapters.sd_lora:SDLoRA",
        "SD-LoRA: directions of earlier low-rank terms are frozen, and the magnitudes of all are learned on",
    ),
    "dualprompt": (
        "prompts.dualprompt:DualPrompt",
        "DualPrompt: a frozen backbone is given prefixes that all experiences share, and those of the nearest one",
    ),
    "coda-prompt": (
        "prompts.coda_prompt:CodaPrompt",
        "CODA-Prompt: a frozen backbone is given prefixes put together from components, weighted by an input's query",
    ),
    "ncm": ("closed_form.ncm:NCM", "The nearest class mean of frozen features"),
    "slda": (
        "closed_form.slda:SLDA",
        "Streaming linear discriminant analysis: class means and one covariance of frozen features",
    ),
    "ridge": (
        "closed_form.ridge:Ridge",
        "Ridge regression on frozen features, recursive and the same as on all data at once",
    ),
    "ranpac": (
        "closed_form.ranpac:RanPAC",
        "Ridge regression on random projections of frozen features, its strength by held-out samples",
    ),
    "fecam": (
        "closed_form.fecam:FeCAM",
        "The nearest class mean of frozen features, by a Mahalanobis distance of each class's own",
    ),
    "randumb": (
        "closed_form.randumb:RanDumb",
        "Linear discriminant analysis of random Fourier features of the inputs; no backbone is used",
    ),
    "aper": (
        "adapters.aper:APER",
        "The nearest class mean of pre-trained features beside those that were tuned on the first experience",
    ),
    "ease": (
        "adapters.ease:EASE",
        "An ensemble of subspaces: each experience trains an adapter, and every class has a prototype by each adapter",
    ),
    "slca": (
        "adapters.slca:SLCA",
        "Slow learner with classifier alignment: small steps of the backbone, and a head trained on drawn features",
    ),
    "frozen": (
        "architecture.frozen:FrozenFeatures",
        "Trains the head on features that are frozen after the first experience, or from the start",
    ),
}
BACKBONES = {
    "mlp": (
        "small:Mlp",
        "Fully connected layers on the flattened input; each is linear, normalised, ReLU, dropout",
    ),
    "mlp-truncated": (
        "small:TruncatedMlp",
        "An MLP that starts wide: weights from a normal distribution (0.1) cut off at two deviations, biases at 0.1",
    ),
    "cnn": (
        "small:Cnn",
        "Blocks of a 3×3 convolution that halve the image, then a linear layer; each normalised, then ReLU",
    ),
    "resnet18": (
        "resnet:ResNet18",
        "Residual network of 18 layers for small images: a 3×3 stem, four stages of two blocks, and their mean",
    ),
    "vit-tiny": (
        "transformers:ViTTiny",
        "Vision transformer on patches of an image, in the size called tiny; the class token's features",
    ),
    "text-transformer": (
        "transformers:TextTransformer",
        "Transformer encoder on tokens; the mean over a text's tokens, or features for every token",
    ),
}
DIGITS = {
    "split-digits": ("SplitDigits", "Scikit-learn's 8×8 digits, a few classes at a time; needs no download"),
    "permuted-digits": (
        "PermutedDigits",
        "Scikit-learn's 8×8 digits under one pixel permutation after another; needs no download",
    ),
    "rotated-digits": (
        "RotatedDigits",
        "Scikit-learn's 8×8 digits, turned by one angle after another; needs no download",
    ),
}
MNIST = {
    "split-mnist": ("SplitMnist", "MNIST, a few classes at a time; downloads 12 MB once"),
    "permuted-mnist": (
        "PermutedMnist",
        "MNIST under one pixel permutation after another; downloads 12 MB once",
    ),
    "rotated-mnist": ("RotatedMnist", "MNIST, turned by one angle after another; downloads 12 MB once"),
    "split-fashion-mnist": (
        "SplitFashionMnist",
        "Fashion-MNIST, a few classes at a time; downloads 31 MB once",
    ),
    "permuted-fashion-mnist": (
        "PermutedFashionMnist",
        "Fashion-MNIST under one pixel permutation after another; downloads 31 MB once",
    ),
    "rotated-fashion-mnist": (
        "RotatedFashionMnist",
        "Fashion-MNIST, turned by one angle after another; downloads 31 MB once",
    ),
}

TARGETS = {
    "classes": ("Classes", "A class for each sample: y int64 [n], scores [n, outputs]"),
    "tokens": (
        "Tokens",
        "A class for every token of a sequence: y int64 [n, time], −100 where none counts; scores [n, time, outputs]",
    ),
    "text": (
        "Text",
        "The token after each, of a language model; likelihoods are kept beside answers, for bits per byte",
    ),
}


@hookimpl
def clarena_register_strategies(register: Register) -> None:
    """Register the native strategies."""
    for name, (path, summary) in STRATEGIES.items():
        register(f"clarena_native.strategies.{path}", name=name, summary=summary)


@hookimpl
def clarena_register_backbones(register: Register) -> None:
    """Register the native backbones."""
    for name, (path, summary) in BACKBONES.items():
        register(f"clarena_native.backbones.{path}", name=name, summary=summary)


@hookimpl
def clarena_register_benchmarks(register: Register) -> None:
    """Register the native benchmarks."""
    for name, (path, summary) in DIGITS.items():
        register(f"clarena_native.benchmarks.digits:{path}", name=name, summary=summary)
    for name, (path, summary) in MNIST.items():
        register(f"clarena_native.benchmarks.mnist:{path}", name=name, summary=summary, extra="vision")


@hookimpl
def clarena_register_targets(register: Register) -> None:
    """Register the targets whose classes come with the contract: data are of classes if nothing is said."""
    for name, (path, summary) in TARGETS.items():
        scoring = f"clarena.record.scorings:{path}"
        register(f"clarena.contract.target:{path}", name=name, summary=summary, scoring=scoring)
