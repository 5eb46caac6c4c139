"""MR signal of brain tissue at 3 T: tissue constants, signal equations and the protocol of each modality.

Times are in milliseconds, concentrations in mmol/l, angles in radians. Signals are relative to fully relaxed water.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MODALITY_SIGNALS",
    "TISSUES",
    "Tissue",
    "inversion_recovery",
    "mixed_signal",
    "spin_echo",
    "spoiled_gradient_echo",
]

Array = NDArray[np.floating]
Equation = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Tissue:
    """MR constants of one tissue.

    Attributes:
        t1: Longitudinal relaxation time in ms.
        t2: Transverse relaxation time in ms.
        density: Proton density, 1 in cerebrospinal fluid.
        agent: Concentration of gadolinium after a usual dose, in mmol/l.
    """

    t1: float
    t2: float
    density: float
    agent: float = 0.0


# Milliseconds at 3 T, of the order that the literature reports (T1 of grey and white matter: Wansapura et al., 1999;
# proton densities: Tofts, Quantitative MRI of the Brain, 2003). T2 of CSF is shortened by pulsation, that of blood
# stands for its flow void. The other T2, the lesions and the agent's concentrations are round values, so chosen that
# the contrast looks like that of real training cases: a simulation for demonstration, not a reference.
TISSUES: Mapping[str, Tissue] = {
    "csf": Tissue(4163, 1200, 1.00),
    "gm": Tissue(1331, 100, 0.81, agent=0.03),
    "wm": Tissue(832, 80, 0.70, agent=0.015),
    "oedema": Tissue(1350, 150, 0.87),
    "necrosis": Tissue(1950, 230, 0.93, agent=0.02),
    "rim": Tissue(1300, 120, 0.87, agent=0.3),
    "blood": Tissue(1664, 35, 0.85, agent=0.7),
    # outside of the brain, for whole heads
    "fat": Tissue(380, 70, 0.90),
    "muscle": Tissue(1420, 40, 0.80),
    "bone": Tissue(600, 10, 0.15),
}
# Longitudinal relaxivity of a gadolinium agent in blood at 3 T, l/mmol/s.
_RELAXIVITY = 4.5


def spoiled_gradient_echo(t1: Array, t2: Array, tr: float, te: float, flip: float) -> Array:
    """Ernst's equation (Haacke et al., Magnetic Resonance Imaging, 1999, chapter 18); `te` is short, so T2 serves."""
    e1 = np.exp(-tr / t1)
    signal: Array = np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-te / t2)
    return signal


def spin_echo(t1: Array, t2: Array, tr: float, te: float) -> Array:
    """Saturation recovery and echo decay (Haacke et al., chapter 8)."""
    signal: Array = (1 - np.exp(-tr / t1)) * np.exp(-te / t2)
    return signal


def inversion_recovery(t1: Array, t2: Array, tr: float, te: float, ti: float) -> Array:
    """Magnitude of a spin echo, `ti` after an inversion (Haacke et al., chapter 8)."""
    signal: Array = np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)
    return signal


def mixed_signal(fractions: Mapping[str, Array], myelin: Array, equation: Equation, agent: float = 0.0) -> Array:
    """The signal of voxels that hold several tissues (fraction x proton density x magnetisation, summed).

    Args:
        fractions: Fraction of each tissue in each voxel, by name in `TISSUES`.
        myelin: Local deviation from the table, about -0.2 to 0.2; more of it shortens both relaxation times.
        equation: Magnetisation from T1 and T2.
        agent: Dose of contrast agent, 1 for the usual one: 1/T1 = 1/T1(0) + relaxivity x concentration.
    """
    signal = np.zeros_like(myelin)
    for name, fraction in fractions.items():
        tissue = TISSUES[name]
        t1 = 1 / (np.exp(myelin) / tissue.t1 + agent * tissue.agent * _RELAXIVITY / 1000)
        signal += fraction * tissue.density * equation(t1, tissue.t2 * np.exp(-0.7 * myelin))
    return signal


def _draw_t1(rng: np.random.Generator) -> Equation:
    tr, te, flip = rng.uniform(7, 9), rng.uniform(2.5, 3.5), np.deg2rad(rng.uniform(16, 22))
    return partial(spoiled_gradient_echo, tr=tr, te=te, flip=flip)


def _t1n(rng: np.random.Generator, fractions: Mapping[str, Array], myelin: Array) -> Array:
    return mixed_signal(fractions, myelin, _draw_t1(rng))


def _t1c(rng: np.random.Generator, fractions: Mapping[str, Array], myelin: Array) -> Array:
    return mixed_signal(fractions, myelin, _draw_t1(rng), agent=rng.uniform(0.7, 1.2))


def _t2w(rng: np.random.Generator, fractions: Mapping[str, Array], myelin: Array) -> Array:
    return mixed_signal(fractions, myelin, partial(spin_echo, tr=rng.uniform(4500, 7000), te=rng.uniform(90, 120)))


def _t2f(rng: np.random.Generator, fractions: Mapping[str, Array], myelin: Array) -> Array:
    tr, te = rng.uniform(8500, 10000), rng.uniform(110, 140)
    csf = TISSUES["csf"].t1
    null = csf * np.log(2 / (1 + np.exp(-tr / csf)))  # where the inverted magnetisation of CSF passes zero
    ti = null * rng.uniform(0.88, 0.96)  # scanners stay a little below: CSF is dark, not black
    return mixed_signal(fractions, myelin, partial(inversion_recovery, tr=tr, te=te, ti=ti))


MODALITY_SIGNALS: Mapping[str, Callable[[np.random.Generator, Mapping[str, Array], Array], Array]] = {
    "t1n": _t1n,
    "t1c": _t1c,
    "t2w": _t2w,
    "t2f": _t2f,
}
"""Signal of each modality from (generator for the sequence's parameters, tissue fractions, myelin deviation)."""
