"""The paper's figures and claims, each an experiment: `Config`, `run`, `check`, `plot`.

    import jax
    jax.config.update("jax_enable_x64", True)
    from ctrnn_jax.experiments import figure4
    data = figure4.run(figure4.Config(w_m=(10.0,)))
    figure4.check(data)         # verdicts
    figure4.plot(data)          # a matplotlib figure

`reproduce` runs them all and writes figures, verdicts.json and report.html; so does the command
`ctrnn reproduce`. Figures 1 to 5 are those of Casoni et al. 2025; "chaos" is the map of Lyapunov
exponents and "modes" the families of closed orbits behind the verdict on limit cycles in higher
dimensions.
"""

from . import chaos as chaos
from . import figure1 as figure1
from . import figure2 as figure2
from . import figure3 as figure3
from . import figure4 as figure4
from . import figure5 as figure5
from . import modes as modes
from ._common import Verdict as Verdict
from .report import reproduce as reproduce
