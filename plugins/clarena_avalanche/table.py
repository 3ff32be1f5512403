"""Every strategy by which Avalanche offers a method: those that run, and those that cannot, with the reason."""

from clarena_avalanche.method import Method
from clarena_avalanche.with_exemplars import WITH_EXEMPLARS
from clarena_avalanche.without_exemplars import WITHOUT_EXEMPLARS

NO_OWN_NETWORK = "it builds a network of its own in place of the track's backbone"


def _refused(name: str, builds: str, reason: str, paper: str, family: str) -> Method:
    return Method(name, builds, f"Cannot run here: {reason}", paper, family, adapter="Refused", refuses=reason)


REFUSED: tuple[Method, ...] = (
    _refused(
        *("bic", "BiC", "its scheduler passes verbose=, which torch has removed"),
        *("Wu et al. 2019, Large Scale Incremental Learning. arXiv:1905.13260", "replay"),
    ),
    _refused(
        *("gss", "GSS_greedy", "it fails whenever a batch is larger than what its buffer holds so far"),
        *("Aljundi et al. 2019, Gradient based sample selection. arXiv:1903.08671", "replay"),
    ),
    _refused(
        *("er-aml", "ER_AML", "it never ends where a class has fewer exemplars than a batch"),
        *("Caccia et al. 2022, New Insights on Reducing Abrupt Representation Change. arXiv:2104.05025", "replay"),
    ),
    _refused(
        *("pnn", "PNNStrategy", f"{NO_OWN_NETWORK} (the native pnn grows it)"),
        *("Rusu et al. 2016, Progressive Neural Networks. arXiv:1606.04671", "architecture"),
    ),
    _refused(
        *(
            "packnet",
            "PackNet",
            "a prediction switches its layers to another task, and predictions must change nothing",
        ),
        *("Mallya & Lazebnik 2018, PackNet. arXiv:1711.05769", "architecture"),
    ),
    _refused(
        *("ar1", "AR1", f"{NO_OWN_NETWORK} (a pre-trained MobileNet)"),
        *("Maltoni & Lomonaco 2019, Continuous Learning in Single-Incremental-Task Scenarios", "architecture"),
    ),
    _refused(
        *("l2p", "LearningToPrompt", f"{NO_OWN_NETWORK} (a pre-trained vision transformer)"),
        *("Wang et al. 2022, Learning to Prompt for Continual Learning. arXiv:2112.08654", "architecture"),
    ),
    _refused(
        *("expert-gate", "ExpertGateStrategy", f"{NO_OWN_NETWORK} (a pre-trained AlexNet for each task)"),
        *("Aljundi et al. 2017, Expert Gate. arXiv:1611.06194", "architecture"),
    ),
    _refused(
        *("generative-replay", "GenerativeReplay", "it trains a second strategy inside, with a budget of its own"),
        *("Shin et al. 2017, Continual Learning with Deep Generative Replay. arXiv:1705.08690", "replay"),
    ),
    _refused(
        *("cope", "CoPE", "it classifies in Avalanche's own evaluation, which the host never calls"),
        *("De Lange & Tuytelaars 2021, Continual Prototype Evolution. arXiv:2009.00919", "replay"),
    ),
    _refused(
        *("slda", "StreamingLDA", "it never trains its features, which must come pre-trained"),
        *("Hayes & Kanan 2020, Lifelong Machine Learning with Deep Streaming LDA. arXiv:1909.01520", "architecture"),
    ),
    _refused(
        *(
            "feature-replay",
            "FeatureReplay",
            "it keeps features in place of samples, and one classifier that cannot grow",
        ),
        *("Magistri et al. 2024, Elastic Feature Consolidation. arXiv:2402.03917", "replay"),
    ),
)

RUNNING = (*WITHOUT_EXEMPLARS, *WITH_EXEMPLARS)
METHODS = (*RUNNING, *REFUSED)
