"""Avalanche's strategies that keep exemplars, within the protocol's buffer."""

from typing import Annotated

from pydantic import Field

from clarena_avalanche.method import Method, exemplars, number, rate, switch, whole

MODEL_AND_BUFFER = "the model and the buffer"

WITH_EXEMPLARS: tuple[Method, ...] = (
    Method(
        name="replay",
        builds="Replay",
        summary="Avalanche's experience replay: batches of the stream with as many exemplars",
        paper="Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning. arXiv:1902.10486",
        family="replay",
        hyper={"mem_size": exemplars()},
        buffer="mem_size",
        remembers=("storage_policy",),
        carries=MODEL_AND_BUFFER,
        off={"mem_size": 0},
        differs="""\
1. The buffer takes equal shares of every experience at its end, chosen at random. Native: `er policy=balanced_random`.
2. Exemplars are dealt out in passes over the buffer, as many as the batch of the stream.
3. From the second experience on the order of the stream is drawn by Avalanche's loader.""",
    ),
    Method(
        name="er-ace",
        builds="ER_ACE",
        summary="Avalanche's ER-ACE: the stream's softmax runs over its own classes only, that of exemplars over all",
        paper="Caccia et al. 2022, New Insights on Reducing Abrupt Representation Change. arXiv:2104.05025",
        family="replay",
        hyper={"mem_size": exemplars(), "batch_size_mem": whole(10, "Exemplars drawn per step.")},
        buffer="mem_size",
        remembers=("storage_policy",),
        carries=MODEL_AND_BUFFER,
        off={"mem_size": 0},
        differs="1. The buffer takes in the whole experience before training on it; the paper's fills up step by step.",
    ),
    Method(
        name="der",
        builds="DER",
        summary="Avalanche's dark experience replay; DER++ where beta > 0",
        paper="Buzzega et al. 2020, Dark Experience for General Continual Learning. arXiv:2004.07211",
        family="replay",
        hyper={
            "mem_size": exemplars(),
            "batch_size_mem": (
                Annotated[int | None, Field(ge=1, description="Exemplars per step; none takes the batch size.")],
                None,
            ),
            "alpha": number(0.1, "Weight of the squared distance between scores.", ge=0),
            "beta": number(0.5, "Weight of the exemplars' cross-entropy; 0 is DER.", ge=0),
        },
        buffer="mem_size",
        remembers=("storage_policy",),
        carries="the model and the buffer, with the scores of each exemplar",
        off={"mem_size": 0},
        task_heads=False,
        adapter="DarkReplay",
        differs="""\
1. Scores are stored after training on an experience, those of the paper within it. The buffer is balanced over classes.
2. One draw serves both terms, DER++ has two; there is none where the buffer holds fewer than a draw.
3. Outputs that did not exist when a sample was stored are left out of its distance.
4. It knows no task labels: in the task scenario it trains all outputs together, and the host masks at test.""",
    ),
    Method(
        name="mir",
        builds="MIR",
        summary="Avalanche's maximally interfered retrieval: replays exemplars whose loss a step would raise most",
        paper="Aljundi et al. 2019, Online Continual Learning with Maximally Interfered Retrieval. arXiv:1908.04742",
        family="replay",
        hyper={
            "mem_size": exemplars(),
            "subsample": whole(200, "Exemplars among which the most interfered are looked for."),
            "batch_size_mem": whole(10, "Exemplars replayed per step."),
        },
        buffer="mem_size",
        remembers=("storage_policy",),
        carries=MODEL_AND_BUFFER,
        off={"mem_size": 0},
        adapter="InterferedRetrieval",
        differs="""\
1. The buffer is filled at the end of each experience, the paper's at each step.
2. Classes of the last batch of an experience are left out of what is replayed in the next one.""",
    ),
    Method(
        name="gem",
        builds="GEM",
        summary="Avalanche's gradient episodic memory",
        paper="Lopez-Paz & Ranzato 2017, Gradient Episodic Memory for Continual Learning. arXiv:1706.08840",
        family="gradient projection",
        hyper={
            "patterns_per_exp": exemplars("Exemplars of each experience, at most an equal share of the buffer"),
            "memory_strength": number(0.5, "γ: the least that a multiplier may be.", ge=0),
            "learning_rate": rate(0.05),
        },
        buffer="patterns_per_exp",
        needs=frozenset({"plain_sgd"}),
        remembers=("memory_x", "memory_y", "memory_tid"),
        carries="the model and exemplars of each experience",
        off={"patterns_per_exp": 0},
        adapter="EpisodicMemory",
        exceptions={"rows": "Avalanche's plugin copies its memories from the batches of inputs that it is given"},
        differs="""\
1. A memory holds samples drawn at random after the experience; the paper's, the last ones. Where experiences share the
   buffer, older memories are cut to their first samples, so that all of them have the same number.
2. The dual has 0.001 on the diagonal of its matrix, and is solved under v ≥ γ, as in the released code.
3. Memories are read in training mode: BatchNorm sees them.""",
    ),
    Method(
        name="agem",
        builds="AGEM",
        summary="Avalanche's averaged gradient episodic memory",
        paper="Chaudhry et al. 2019, Efficient Lifelong Learning with A-GEM. arXiv:1812.00420",
        family="gradient projection",
        hyper={
            "patterns_per_exp": exemplars("Exemplars of each experience, at most an equal share of the buffer"),
            "sample_size": whole(64, "Exemplars drawn per step, in equal parts of every experience."),
            "learning_rate": rate(0.05),
        },
        buffer="patterns_per_exp",
        needs=frozenset({"plain_sgd"}),
        remembers=("buffers",),
        carries="the model and exemplars of each experience",
        off={"patterns_per_exp": 0},
        adapter="AveragedMemory",
        differs="1. Where experiences share the buffer, older memories are cut to their first samples.",
    ),
    Method(
        name="icarl",
        builds="ICaRL",
        summary="Avalanche's iCaRL: herded exemplars, distillation by sigmoids, nearest mean of exemplars",
        paper="Rebuffi et al. 2017, iCaRL: Incremental Classifier and Representation Learning. arXiv:1611.07725",
        family="replay",
        hyper={"memory_size": exemplars()},
        fixed={"buffer_transform": None, "fixed_memory": True},
        buffer="memory_size",
        needs_exemplars=True,
        remembers=(
            *("x_memory", "y_memory", "order", "observed_classes", "class_means"),
            *("embedding_size", "output_size", "input_size", "old_classes", "old_model"),
        ),
        carries="the model, that of the last experience, the buffer and the means",
        scenarios=frozenset({"class", "task"}),
        task_heads=False,
        needs=frozenset({"float32"}),
        adapter="ICaRLAdapter",
        exceptions={
            "buffer_budget": "it cannot classify without exemplars, and says so where none are granted",
            "rows": "it keeps exemplars as the inputs that it has herded",
        },
        differs="""\
1. The teacher of the distillation is left in training mode: BatchNorm uses the batch's statistics.
2. Means are of each image and its mirror image, also where a mirrored image is another class, as with digits.
3. Herding gives up after 1000 picks, repeated ones among them, so classes can have fewer exemplars than their share.
4. Every class gets the same share, rounded down to stay within the buffer; Avalanche itself rounds up.
5. It knows no task labels: one classifier for all outputs, and the host masks at test.""",
    ),
    Method(
        name="scr",
        builds="SCR",
        summary="Avalanche's supervised contrastive replay, with the nearest mean of exemplars as classifier",
        paper="Mai et al. 2021, Supervised Contrastive Replay. arXiv:2103.13885",
        family="replay",
        hyper={
            "mem_size": exemplars(),
            "temperature": number(0.1, "Temperature of the contrastive loss.", gt=0),
            "batch_size_mem": whole(100, "Exemplars drawn per step."),
        },
        buffer="mem_size",
        needs_exemplars=True,
        remembers=("storage_policy",),
        carries="the model, a projection, the buffer and the means",
        scenarios=frozenset({"class", "task"}),
        task_heads=False,
        needs=frozenset({"float32"}),
        adapter="ContrastiveReplay",
        exceptions={"buffer_budget": "it cannot classify without exemplars, and says so where none are granted"},
        differs="""\
1. Nothing augments the inputs, so both views of a sample are the same.
2. There is no review of the buffer at the end of an experience.
3. Means of older classes are averaged with their earlier values.""",
    ),
    Method(
        name="gdumb",
        builds="GDumb",
        summary="Avalanche's GDumb: a balanced buffer, and a model trained from scratch on it alone",
        paper="Prabhu et al. 2020, GDumb: A Simple Approach that Questions Our Progress in Continual Learning",
        family="replay",
        hyper={"mem_size": exemplars()},
        buffer="mem_size",
        needs_exemplars=True,
        remembers=("storage_policy", "init_model"),
        carries="the model, its first weights and the buffer",
        adapter="FirstWeights",
        exceptions={"buffer_budget": "it trains on its buffer alone, and says so where no exemplars are granted"},
        differs="""\
1. It passes over the buffer as often as the protocol allows passes over the stream; the native, 50 times.
2. Every model starts from the same first weights.""",
    ),
    Method(
        name="mer",
        builds="MER",
        summary="Avalanche's meta-experience replay: steps on single samples that Reptile makes agree",
        paper="Riemer et al. 2019, Learning to Learn without Forgetting. arXiv:1810.11910",
        family="meta-learning",
        hyper={
            "mem_size": exemplars(),
            "batch_size_mem": whole(10, "Exemplars drawn per step."),
            "n_inner_steps": whole(5, "Rounds over the batch and its exemplars per step."),
            "beta": number(0.1, "Reptile's rate within a round.", gt=0, le=1),
            "gamma": number(
                1.0, "Reptile's rate across rounds; the paper's. Avalanche's own default is 0.1.", gt=0, le=1
            ),
            "learning_rate": rate(0.03),
        },
        buffer="mem_size",
        needs=frozenset({"plain_sgd", "unclipped", "float32"}),
        remembers=("buffer",),
        carries=MODEL_AND_BUFFER,
        differs="""\
1. The buffer is filled at the end of each experience, so none of an experience is replayed while it lasts.
2. A step makes rounds over the whole batch, one sample at a time; the paper's rounds are of one new sample each.""",
    ),
    Method(
        name="la-maml",
        builds="avalanche.training.supervised.lamaml_v2:LaMAML",
        summary="Avalanche's look-ahead meta-learning, of its second version",
        paper="Gupta et al. 2020, La-MAML: Look-ahead Meta Learning for Continual Learning. arXiv:2007.13904",
        family="meta-learning",
        hyper={
            "n_inner_updates": whole(4, "Parts of a batch, learned one after another; Avalanche's own default is 5."),
            "second_order": switch(True, "Differentiate through the inner updates."),
            "grad_clip_norm": number(1.0, "Bound of gradients.", gt=0),
            "learn_lr": switch(True, "Learn a learning rate for each parameter."),
            "lr_alpha": number(0.25, "Learning rate of the learning rates.", gt=0),
            "sync_update": switch(False, "Step by the protocol's optimiser instead of the learned rates."),
            "alpha_init": number(0.1, "Every learned rate at the start.", gt=0),
            "max_buffer_size": exemplars(),
            "buffer_mb_size": whole(10, "Exemplars drawn per step."),
        },
        buffer="max_buffer_size",
        needs_exemplars=True,
        remembers=("alpha_params", "alpha_params_initialized", "buffer"),
        carries="the model, its learned rates and the buffer",
        needs=frozenset({"unclipped", "constant_rate", "float32"}),
        adapter="LookAhead",
        exceptions={"buffer_budget": "it looks back at exemplars at every step, and says so where none are granted"},
        differs="""\
1. The model starts from Kaiming's normal initialisation and biases of 0, whatever the backbone has.
2. An incomplete last batch of a pass is left out; so the passes are a little shorter than metered.
3. The buffer is filled at the end of each experience.""",
    ),
)
