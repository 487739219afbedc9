"""The settings of the method that chooses prompts, and the names of the methods."""

from dataclasses import dataclass

from rl import _checks

EMBEDDINGS = ("wordllama", "policy", "both", "difficulty")
"""The embeddings of the pool that gps and adaptive can use."""
OF_THE_POLICY = ("policy", "both")
"""The embeddings that hold the policy's hidden states."""
ACQUISITIONS = ("expected_variance", "expected_signal")
"""The scores by which adaptive can draw prompts."""
PRIOR_COUNTS = ("ones", "progress", "stability", "local")
"""The prior counts of dps."""
PREDICTIVE_NAMES = ("mopps", "mopps_mean", "mopps_mixed", "threshold", "dps", "gps", "adaptive", "arcus")
"""The names of the methods that predict success rates; `experiments.running.curricula` makes them."""
_SHUFFLING_NAMES = ("uniform", "history_resampling", "dynamic_sampling")
METHOD_NAMES = (*_SHUFFLING_NAMES, *PREDICTIVE_NAMES)
"""The names of all methods."""
_COLDEST, _SMALLEST_RATE = 1e-30, 1e-6  # the limits of jaxsel, which takes too long to import here


@dataclass(frozen=True)
class MethodConfig:
    """The method that chooses prompts, and its settings.

    Attributes:
        name: uniform, history_resampling, dynamic_sampling, mopps, mopps_mean, mopps_mixed, threshold, dps, gps,
            adaptive or arcus. mopps_mean uses the posterior mean in place of the Thompson draw (INSIGHT); mopps_mixed
            samples in proportion to the probability of a mixed group (MaPP).
        batch_size: Prompts per step.
        candidate_ratio: The methods that predict choose among the next candidate_ratio * batch_size prompts of a
            shuffled epoch; 0: among the whole pool.
        decay: mopps, threshold and gps: share of a prompt's earlier evidence that remains after a step with rollouts of
            the prompt, 0 to 1.
        dps_decay: dps: share of a prompt's evidence that remains after a step, with or without rollouts of the prompt.
            By default a prompt is a candidate about every eighth step: at 0.5 almost none of the evidence remains.
        target: mopps and gps: target success rate. arcus: target at the start of the run.
        lower: threshold: lower end of the band of success rates.
        upper: threshold: upper end of the band of success rates.
        prior_counts: dps: prior counts of the transitions between solve states: ones, progress, stability or local.
        entropy_weight: dps: weight of the entropy of the predicted solve state (unsolved, mixed or solved).
        diversity_weight: gps: weight of the distances within a batch and to recent batches.
        embeddings: gps and adaptive: wordllama; policy: hidden states of each prompt's last token in the policy at the
            start of the run; both: wordllama and policy, one after the other; difficulty: numbers from each prompt's
            stratum, see `rl.prompts.features`.
        kernel_features: gps and adaptive, with the embeddings policy or both: number of random Fourier features of the
            hidden states that are added to the embeddings, for example 256. With them, the linear model of adaptive
            predicts a prompt from visited prompts with similar states. 0: none.
        latent_size: gps: size of the network's latent vector, which recent batches inform; 0: none.
        acquisition: adaptive: expected_variance, E[p (1 - p)]; or expected_signal, the expected standard deviation of
            a group's rewards.
        temperature: adaptive and arcus: temperature of the sampling; the smaller, the greedier. None: the default of
            `jaxsel.adaptive` or `jaxsel.arcus`.
        screened: gps and adaptive: share of the prompts that is predicted exactly, chosen by a rough prediction of the
            whole pool, for example 0.05; 0: every prompt is predicted exactly.
        filter: Whether a method that predicts trains on mixed groups alone, as dynamic_sampling does.
        margin: With a filter: smallest share of successes, and of failures, in a group that is kept, 0 to 1/2.
        max_batches: With a filter: maximum of generation batches per step.
        keep_surplus: With a filter: keep mixed groups beyond batch_size for the next step.
        stratified: Whether every batch has the pool's share of each stratum; the method chooses within the strata. The
            strata of word_problems and of reasoning_gym are difficulties; data.stratum names those of a data set.
        explore_share: Part of every batch, 0 to 1, for the candidates that waited longest for a visit
            (`jaxsel.exploring`); the method chooses the others.
        explore_after: Steps without a visit after which a candidate is chosen whatever its score; 0: never.
        prior_rollouts: Number of rollouts behind each solve rate of the data set, from which every method gets its
            prior (jaxsel.informative_prior, where each of these rollouts counts three times); 0: no such prior. Not
            with arcus.
    """

    name: str = "mopps"
    batch_size: int = 16
    candidate_ratio: int = 4
    decay: float = 0.5
    dps_decay: float = 0.9
    target: float = 0.5
    lower: float = 0.3
    upper: float = 0.7
    prior_counts: str = "ones"
    entropy_weight: float = 0.0
    diversity_weight: float = 0.1
    embeddings: str = "wordllama"
    kernel_features: int = 0
    latent_size: int = 16
    acquisition: str = "expected_variance"
    temperature: float | None = None
    screened: float = 0.0
    filter: bool = False
    margin: float = 0.0
    max_batches: int = 10
    keep_surplus: bool = False
    stratified: bool = False
    explore_share: float = 0.0
    explore_after: int = 0
    prior_rollouts: float = 0.0

    def __post_init__(self):
        if self.name not in METHOD_NAMES:
            raise ValueError(f"method.name is {self.name!r}; give one of {', '.join(METHOD_NAMES)}")
        _checks.integers(1, batch_size=self.batch_size, max_batches=self.max_batches)
        _checks.integers(0, candidate_ratio=self.candidate_ratio, latent_size=self.latent_size)
        _checks.integers(0, explore_after=self.explore_after, kernel_features=self.kernel_features)
        _checks.from_zero_to_one(decay=self.decay, dps_decay=self.dps_decay, target=self.target)
        _checks.from_zero_to_one(lower=self.lower, upper=self.upper, screened=self.screened)
        _checks.from_zero_to_one(explore_share=self.explore_share)
        _checks.at_least_zero(entropy_weight=self.entropy_weight, diversity_weight=self.diversity_weight)
        _checks.at_least_zero(prior_rollouts=self.prior_rollouts)
        if self.temperature is not None:
            _checks.temperatures(least=_COLDEST, greedy=False, temperature=self.temperature)
        _checks.booleans(keep_surplus=self.keep_surplus, filter=self.filter, stratified=self.stratified)
        _checks.from_zero_to_half(margin=self.margin)
        if self.filter and self.name in ("uniform", "history_resampling"):
            raise ValueError(f"filter is true with {self.name}; give dynamic_sampling or a method that predicts")
        for setting in ("stratified", "explore_share", "explore_after") if self.name in _SHUFFLING_NAMES else ():
            value, default = getattr(self, setting), getattr(MethodConfig, setting)
            if value != default:
                raise ValueError(
                    f"method.{setting} is {str(value).lower()} with {self.name}, which goes through the pool in "
                    f"shuffled epochs; give method.{setting}={str(default).lower()}, or one of "
                    f"{', '.join(PREDICTIVE_NAMES)}"
                )
        if self.prior_rollouts and self.name == "arcus":
            raise ValueError(
                f"method.prior_rollouts is {self.prior_rollouts:g} with arcus, whose prior is the same for all "
                "prompts; give method.prior_rollouts=0, or another method"
            )
        if self.name == "arcus" and not _SMALLEST_RATE <= self.target <= 1 - _SMALLEST_RATE:
            raise ValueError(
                f"method.target is {self.target:g} with arcus, whose target moves; give a number from "
                f"{_SMALLEST_RATE:g} to {1 - _SMALLEST_RATE:g}"
            )
        if self.lower > self.upper:
            raise ValueError(f"lower is {self.lower} and upper is {self.upper}; give numbers with lower <= upper")
        _checks.one_of(ACQUISITIONS, acquisition=self.acquisition)
        _checks.one_of(EMBEDDINGS, embeddings=self.embeddings)
        _checks.one_of(PRIOR_COUNTS, prior_counts=self.prior_counts)
        if self.kernel_features and self.embeddings not in OF_THE_POLICY:
            raise ValueError(
                f"kernel_features is {self.kernel_features} with method.embeddings={self.embeddings}; give 0, or "
                f"method.embeddings={' or '.join(OF_THE_POLICY)}: they are features of the policy's hidden states"
            )

    @property
    def keeps_mixed_groups(self) -> bool:
        """Whether a step trains on mixed groups alone, within the margin."""
        return self.filter or self.name == "dynamic_sampling"

    def check_group_size(self, group_size: int) -> None:
        """Refuse a number of rollouts per prompt with which the filter keeps no group, or the method finds none.

        Raises:
            ValueError: There is a filter, and even the most balanced group is not mixed or not within the margin. Or:
                the method chooses mixed groups, which have at least 2 rollouts.
        """
        most = group_size // 2 / group_size  # the share of successes nearest to 1/2
        if self.keeps_mixed_groups and (most == 0 or most < self.margin - 1e-6):  # see `rl.groups.Groups.within`
            raise ValueError(
                f"train.group_size is {group_size} with method.margin={self.margin:g} and a filter, which would keep "
                f"no group: it keeps those with a share of successes from {self.margin:g} to {1 - self.margin:g}, and "
                "neither 0 nor 1; give another group_size or margin, or a method without a filter"
            )
        by_signal = self.name == "adaptive" and self.acquisition == "expected_signal"
        if group_size < 2 and (by_signal or self.name in ("dps", "mopps_mixed", "arcus")):
            setting = "method.acquisition=expected_signal" if by_signal else f"method.name={self.name}"
            raise ValueError(
                f"train.group_size is {group_size} with {setting}, which chooses mixed groups; they have at least 2 "
                "rollouts: give 2 or more, or method.name=mopps"
            )
