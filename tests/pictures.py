"""What every picture must keep: labels that do not touch each other, nothing beyond the page."""

from itertools import combinations

import numpy as np


def assert_readable(figure):
    """No two tick labels of an axis overlap, and none two of any axes; no text is cut off."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    labels = []
    inside = [child for ax in figure.axes for child in ax.child_axes]
    for ax in [*figure.axes, *inside]:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                shown = axis.get_visible() and ax.axison and low <= tick.get_loc() <= high
                text = tick.label1
                if shown and text.get_visible() and text.get_text():
                    labels.append((axis, text.get_text(), text.get_window_extent(renderer)))
    assert labels
    for (axis, a, box), (of, b, other) in combinations(labels, 2):
        # In the corner of two axes boxes of text may touch where the letters do not.
        slack = 0 if axis is of else 2
        if not np.allclose(box.extents, other.extents):  # one label, where axes lie upon each other
            assert not box.padded(-slack).overlaps(other), f"{a!r} touches {b!r}"
    page, whole = figure.bbox_inches, figure.get_tightbbox(renderer)
    assert whole.x0 >= -0.02 and whole.y0 >= -0.02
    assert whole.x1 <= page.x1 + 0.02 and whole.y1 <= page.y1 + 0.02
