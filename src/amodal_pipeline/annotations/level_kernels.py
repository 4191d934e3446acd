"""Compiled loops over the pixels of an image's objects, for :mod:`.levels`."""

import numpy as np

from amodal_pipeline.annotations.kernels import compiled


@compiled
def draw_levels(changes, precedes, amodal, level, unresolved):
    """Write the three maps, which must be zero.

    Between two changes the same objects lie on every pixel, so that one look serves a run.

    Args:
        changes: int64 [E], sorted: where a mask begins or ends, as ``(pixel * N + object) * 2 +
            is visible mask``, pixels numbered column by column.
        precedes: bool [N, N], never both [a, b] and [b, a]: a is in front of b.
        amodal: bool [N, H, W]; level: uint8 [N, H, W]; unresolved: bool [H, W].
    """
    n, height, _ = amodal.shape
    present, visible = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    owners, hidden = np.empty(n, np.int64), np.empty(n, np.int64)
    front = np.empty(n, np.int64)
    at = 0
    while at < len(changes):
        start = changes[at] // (2 * n)
        while at < len(changes) and changes[at] // (2 * n) == start:
            which = (changes[at] // 2) % n
            if changes[at] % 2:
                visible[which] = not visible[which]
            else:
                present[which] = not present[which]
            at += 1
        if at == len(changes):
            break
        seen, count = 0, 0
        for i in range(n):
            if present[i] and visible[i]:
                owners[seen] = i
                seen += 1
            elif present[i]:
                hidden[count] = i
                count += 1
        resolved = _count_in_front(hidden[:count], precedes, front)
        # What hides an object where nobody is visible is not in the table: still one thing.
        least = max(seen, 1)

        x, y = start // height, start % height
        for _ in range(changes[at] // (2 * n) - start):
            for k in range(seen):
                amodal[owners[k], y, x] = True
            for k in range(count):
                amodal[hidden[k], y, x] = True
                level[hidden[k], y, x] = min(least + front[k], 255)
            if not resolved:
                unresolved[y, x] = True
            y += 1
            if y == height:
                x, y = x + 1, 0


@compiled
def _count_in_front(hidden, precedes, front):
    """Count how many of ``hidden`` are in front of each; return whether all pairs are known.

    The order of a pair is known if it is stated, or follows from stated pairs between the two.
    """
    count = len(hidden)
    for b in range(count):
        front[b] = 0
        for a in range(count):
            front[b] += precedes[hidden[a], hidden[b]]
    # All counts differ only where all pairs are stated and agree.
    if _differ(front[:count]):
        return True
    reaches = np.empty((count, count), np.bool_)
    for a in range(count):
        for b in range(count):
            reaches[a, b] = precedes[hidden[a], hidden[b]]
    for between in range(count):
        for a in range(count):
            if reaches[a, between]:
                reaches[a] |= reaches[between]
    for b in range(count):
        front[b] = 0
        for a in range(count):
            front[b] += reaches[a, b] and not reaches[b, a]
    return _differ(front[:count])


@compiled
def _differ(values):
    for i in range(len(values)):
        for j in range(i):
            if values[i] == values[j]:
                return False
    return True
