"""The settings of the loss, each option of one loss."""

from dataclasses import dataclass, fields

from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The loss and its options. Each option belongs to one loss."""

    name: str = setting(
        "la",
        "Loss: la (logit adjustment), bs (balanced softmax), ce (cross-entropy), focal, ldam, cb "
        "(class-balanced), grw (generalised reweighting) or lade.",
    )
    tau: float = setting(1.0, "Strength of the logit adjustment.", only_for="la", low=0, high=10**6)
    gamma: float = setting(
        2.0,
        "Exponent of (1 - p), where p is the probability of the true class: a larger value gives "
        "images that are already recognised less weight.",
        only_for="focal",
        low=0,
        high=10**6,
    )
    max_margin: float = setting(
        0.5,
        "Margin of the smallest class, which is the largest margin.",
        only_for="ldam",
        low=0,
        high=10**6,
    )
    scale: float = setting(
        0.0,
        "Factor that turns the margins, which are differences of cosines, into differences of "
        "logits. 0: head.scale.",
        only_for="ldam",
        low=0,
        high=10**6,
    )
    beta: float = setting(
        0.9999,
        "0 gives all classes the same weight; values near 1 weight them by 1 / images.",
        only_for="cb",
        low=0,
        high=1,
        exclusive="high",
    )
    exponent: float = setting(
        1.0, "Exponent of 1 / images in the weight of a class.", only_for="grw", low=0, high=10**6
    )
    weight: float = setting(
        0.1,
        "Weight of LADE's regulariser.",
        only_for="lade",
        low=0,
        high=10**6,
    )

    @property
    def options(self) -> dict[str, float]:
        """Returns the options of the chosen loss, for `losses.make`."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.metadata["about"].only_for == self.name
        }
