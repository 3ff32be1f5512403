"""Avalanche's strategies that keep no exemplars."""

from typing import Annotated

from pydantic import Field

from clarena_avalanche.method import Method, choice, number, numbers, switch, whole

WITHOUT_EXEMPLARS: tuple[Method, ...] = (
    Method(
        name="naive",
        builds="Naive",
        summary="Avalanche's fine-tuning: trains on each experience in turn",
        paper="Lomonaco et al. 2021, Avalanche: an End-to-End Library for Continual Learning",
        family="reference",
        off={},
    ),
    Method(
        name="cumulative",
        builds="Cumulative",
        summary="Avalanche's training at each experience on all the data seen so far; a bound over time",
        paper="Lomonaco et al. 2021, Avalanche: an End-to-End Library for Continual Learning",
        family="reference",
        needs=frozenset({"past_data"}),
        differs="1. The host hands over the data of all experiences so far; Avalanche's own collection is not used.",
    ),
    Method(
        name="joint",
        builds="JointTraining",
        summary="Avalanche's training on the data of the whole stream at once; the upper bound",
        paper="Lomonaco et al. 2021, Avalanche: an End-to-End Library for Continual Learning",
        family="reference",
        needs=frozenset({"all_data"}),
    ),
    Method(
        name="from-scratch",
        builds="FromScratchTraining",
        summary="Avalanche's reset to the first weights before every experience: no transfer, no protection",
        paper="Lomonaco et al. 2021, Avalanche: an End-to-End Library for Continual Learning",
        family="reference",
        remembers=("initial_weights",),
        carries="the model and its first weights",
        differs="1. Outputs of older experiences are set back as well, so all but the present experience is at chance.",
    ),
    Method(
        name="ewc",
        builds="EWC",
        summary="Avalanche's elastic weight consolidation",
        paper="Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks. arXiv:1612.00796",
        family="regularisation",
        hyper={
            "ewc_lambda": number(1.0, "λ of λ Σ F (θ − θ*)²; there is no 1/2.", ge=0),
            "mode": choice("separate", "A penalty for each past experience, or one running sum.", "online"),
            "decay_factor": (
                Annotated[float | None, Field(ge=0, description="Factor of the running sum; for mode=online.")],
                None,
            ),
            "keep_importance_data": switch(False, "Keep the importances of all experiences with mode=online too."),
        },
        remembers=("saved_params", "importances"),
        carries="the model; weights and importances of each experience (one set with mode=online)",
        off={"ewc_lambda": 0.0},
        adapter="Elastic",
        differs="""\
1. F is the mean over batches of the squared gradient of the batch's mean loss, not the mean over samples of squared
   gradients: it shrinks about as 1/batch size, so λ must grow with the batch. Native: `ewc fisher=batched`.
2. The labels of the data are used (the empirical Fisher).
3. The penalty has no factor 1/2: λ here is 2 λ there.""",
    ),
    Method(
        name="mas",
        builds="MAS",
        summary="Avalanche's memory-aware synapses",
        paper="Aljundi et al. 2018, Memory Aware Synapses. arXiv:1711.09601",
        family="regularisation",
        hyper={
            "lambda_reg": number(1.0, "Weight of the penalty.", ge=0),
            "alpha": number(0.5, "Share of the older importance in the running mean.", ge=0, le=1),
        },
        fixed={"verbose": False},
        remembers=("params", "importance"),
        carries="the model, its weights after the last experience and their importances",
        differs="""\
1. The absolute value is taken of the gradient of a batch's mean, where samples cancel one another.
2. Importances are a running mean over experiences; the paper adds them up.
3. They are estimated in training mode: dropout is on and BatchNorm's statistics move.
4. A loss of exactly 0, at which it raises (avalanche#1676), is kept a hair above.""",
        adapter="Synapses",
    ),
    Method(
        name="si",
        builds="SynapticIntelligence",
        summary="Avalanche's synaptic intelligence",
        paper="Zenke et al. 2017, Continual Learning Through Synaptic Intelligence. arXiv:1703.04200",
        family="regularisation",
        hyper={
            "si_lambda": numbers(1.0, "Weight of the penalty, which has a factor 1/2"),
            "eps": number(1e-7, "ξ, which keeps the division finite.", gt=0),
        },
        remembers=("ewc_data", "syn_data"),
        carries="the model, its weights after the last experience, importances and path integrals",
        off={"si_lambda": 0.0},
        differs="""\
1. The path integral uses the gradient of loss and penalty together; the paper, that of the loss.
2. Importances are cut off at 0.001, so a large λ has less effect than in the paper. There is no cut in the native.
3. BatchNorm's parameters are left out.
4. On a CPU, Avalanche 0.6.0 keeps views of the weights instead of copies, so that importances and penalty are always 0
   and it is fine-tuning. Here they are copied, as they are on a GPU.""",
        adapter="PathIntegral",
    ),
    Method(
        name="rwalk",
        builds="RWalkPlugin",
        summary="Avalanche's Riemannian walk: EWC's importances and path scores of the loss together",
        paper="Chaudhry et al. 2018, Riemannian Walk for Incremental Learning. arXiv:1801.10112",
        family="regularisation",
        hyper={
            "ewc_lambda": number(0.1, "Weight of the penalty.", ge=0),
            "ewc_alpha": number(0.9, "Share of the newest batch in the running Fisher.", ge=0, le=1),
            "delta_t": whole(10, "Steps between two updates of the scores."),
        },
        remembers=("iter_importance", "exp_scores", "exp_params", "exp_importance", "exp_penalties"),
        carries="the model, its weights after the last experience, importances and scores",
        differs="""\
1. It leaves the model in evaluation mode while it trains: dropout is off and BatchNorm's statistics stay as they are.
2. Outputs that came after the first experience get no score, so they are never held.
3. The paper's exemplars in class-incremental streams are left out.""",
    ),
    Method(
        name="lwf",
        builds="LwF",
        summary="Avalanche's learning without forgetting",
        paper="Li & Hoiem 2016, Learning without Forgetting. arXiv:1606.09282",
        family="distillation",
        hyper={
            "alpha": numbers(1.0, "Weight of the distillation"),
            "temperature": number(2.0, "Temperature of both softmaxes.", gt=0),
        },
        remembers=("lwf",),
        carries="the model and that of the last experience",
        differs="""\
1. The distillation is not multiplied by temperature², so its gradient shrinks with it.
2. The teacher is left in training mode: its dropout is on and its BatchNorm statistics drift.
3. With task labels every old head is distilled, in a second forward pass.
4. There is no warm-up of new outputs.""",
    ),
    Method(
        name="lfl",
        builds="LFL",
        summary="Avalanche's less-forgetful learning: features are held near those of the last model",
        paper="Jung et al. 2016, Less-forgetting Learning in Deep Neural Networks. arXiv:1607.00122",
        family="distillation",
        hyper={"lambda_e": numbers(1.0, "Weight of the mean squared distance between features")},
        remembers=("prev_model",),
        carries="the model and that of the last experience",
        differs="1. The newest linear layer is frozen after an experience: with heads that grow, its outputs alone.",
    ),
    Method(
        name="cwr-star",
        builds="CWRStar",
        summary="Avalanche's CWR*: a copy of each class's weights, consolidated over experiences, on frozen features",
        paper="Lomonaco et al. 2020, Rehearsal-Free Continual Learning over Small Non-I.I.D. Batches. arXiv:1907.03799",
        family="architecture",
        fixed={"cwr_layer_name": None},
        remembers=("saved_weights", "past_j"),
        carries="the model and consolidated weights of its outputs",
        adapter="CopiedWeights",
        differs="""\
1. Features are frozen after the first experience; the paper's are pre-trained.
2. The outputs are joined into one linear layer whenever new ones come.
3. The mean over all weights of the new classes is subtracted from each; biases are left out.""",
    ),
)
