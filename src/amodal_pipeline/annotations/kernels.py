"""Compiled loops over run lengths and polygons; :mod:`amodal_pipeline.annotations.rle` calls them.

Masks of a column lie end to end: mask i has ``runs[offsets[i]:offsets[i + 1]]`` (or the characters
between two offsets), background first, pixels numbered column by column. Compiled on first use and
kept in a cache on disk. No function checks what it is given, except :func:`unpack`.
"""

import numpy as np
from numba import njit

MAX_GROUPS = 7  # five bits a character: enough for runs of any canvas pycocotools can hold
GRID = 5  # points a pixel side, of the grid that COCO draws polygons on

compiled = njit(cache=True, nogil=True)


@compiled
def run_counts(chars, offsets):
    """Count the runs of each string; the last character counts as the end of a run."""
    counts = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(counts)):
        for at in range(offsets[i], offsets[i + 1]):
            if (chars[at] - 48) & 0x20 == 0 or at == offsets[i + 1] - 1:
                counts[i] += 1
    return counts


@compiled
def unpack(chars, offsets, run_offsets):
    """Return the runs of all strings, and which strings are damaged.

    COCO's strings hold five bits a character, lowest first, with a sixth for "more follows"; from
    the fourth run on it is the difference to the run two places before that is written.
    """
    runs = np.zeros(run_offsets[-1], np.int64)
    damaged = np.zeros(len(offsets) - 1, np.bool_)
    for i in range(len(damaged)):
        start, out = run_offsets[i], run_offsets[i]
        value, shift = np.int64(0), 0
        damaged[i] = offsets[i] == offsets[i + 1]
        for at in range(offsets[i], offsets[i + 1]):
            bits = np.int64(chars[at]) - 48
            if bits < 0 or bits > 63 or shift >= 5 * MAX_GROUPS:
                damaged[i] = True
                break
            value |= (bits & 0x1F) << shift
            shift += 5
            if bits & 0x20:
                damaged[i] = at == offsets[i + 1] - 1
                continue
            if bits & 0x10:
                value -= np.int64(1) << shift
            if out - start > 2:
                value += runs[out - 2]
            runs[out] = value
            out += 1
            value, shift = np.int64(0), 0
    return runs, damaged


@compiled
def pack(runs, offsets):
    """Return the characters of all masks end to end, and offsets; inverse of :func:`unpack`."""
    chars = np.empty(MAX_GROUPS * len(runs), np.uint8)
    char_offsets = np.zeros(len(offsets), np.int64)
    out = 0
    for i in range(len(offsets) - 1):
        for at in range(offsets[i], offsets[i + 1]):
            value = runs[at]
            if at - offsets[i] > 2:
                value -= runs[at - 2]
            more = True
            while more:
                bits = value & 0x1F
                value >>= 5
                more = value != -1 if bits & 0x10 else value != 0
                chars[out] = bits + (0x20 if more else 0) + 48
                out += 1
        char_offsets[i + 1] = out
    return chars[:out], char_offsets


@compiled
def check(runs, offsets, pixels):
    """Return a code per mask: 0 sound, 1 a negative run, 2 an empty run inside, 3 wrong sum.

    The sums come back too. pycocotools stops early at empty runs, and writes beyond its memory
    where there are more runs than pixels.
    """
    codes = np.zeros(len(pixels), np.uint8)
    totals = np.zeros(len(pixels), np.int64)
    for i in range(len(pixels)):
        for at in range(offsets[i], offsets[i + 1]):
            if runs[at] < 0:
                codes[i] = 1
            elif runs[at] == 0 and at > offsets[i] and codes[i] == 0:
                codes[i] = 2
            # No string of run lengths gets near the end of the numbers: 2**34 a run.
            totals[i] += runs[at]
        if codes[i] == 0 and totals[i] != pixels[i]:
            codes[i] = 3
    return codes, totals


@compiled
def area(runs, offsets):
    areas = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(areas)):
        for at in range(offsets[i] + 1, offsets[i + 1], 2):
            areas[i] += runs[at]
    return areas


@compiled
def box(runs, offsets, heights):
    """Return tight boxes (x, y, width, height); NaN for an empty mask."""
    boxes = np.full((len(heights), 4), np.nan, np.float32)
    for i in range(len(heights)):
        height = heights[i]
        left, right, top, bottom = np.int64(-1), np.int64(0), height, np.int64(-1)
        stop = np.int64(0)
        for at in range(offsets[i] + 1, offsets[i + 1], 2):
            start = stop + runs[at - 1]
            stop = start + runs[at]
            if stop == start:
                continue
            x0, x1 = start // height, (stop - 1) // height
            if left < 0:
                left = x0
            right = x1
            if x1 > x0:
                top, bottom = np.int64(0), height - 1
            else:
                top = min(top, start - x0 * height)
                bottom = max(bottom, stop - 1 - x0 * height)
        if left >= 0:
            boxes[i, 0], boxes[i, 1] = left, top
            boxes[i, 2], boxes[i, 3] = right - left + 1, bottom - top + 1
    return boxes


@compiled
def merge(a, a_offsets, b, b_offsets, keep):
    """Combine masks row by row: ``keep[2 * in_a + in_b]`` says which pixels are foreground."""
    runs = np.empty(len(a) + len(b) + len(a_offsets), np.int64)
    offsets = np.zeros(len(a_offsets), np.int64)
    out = 0
    for i in range(len(a_offsets) - 1):
        at_a, at_b = a_offsets[i], b_offsets[i]
        end_a, end_b = a_offsets[i + 1], b_offsets[i + 1]
        left_a, left_b = a[at_a], b[at_b]
        in_a = in_b = 0
        inside, length = False, np.int64(0)
        while True:
            # Runs of no length change the side and nothing else.
            while left_a == 0 and at_a + 1 < end_a:
                at_a += 1
                left_a, in_a = a[at_a], 1 - in_a
            while left_b == 0 and at_b + 1 < end_b:
                at_b += 1
                left_b, in_b = b[at_b], 1 - in_b
            step = min(left_a, left_b)
            if step == 0:
                break
            if keep[2 * in_a + in_b] != inside:
                runs[out] = length
                out += 1
                inside, length = not inside, np.int64(0)
            length += step
            left_a -= step
            left_b -= step
        runs[out] = length
        out += 1
        offsets[i + 1] = out
    return runs[:out], offsets


@compiled
def move(runs, offsets, source, target, sizes):
    """Return runs and their offsets of masks that are shifted and scaled as their boxes are.

    Each target pixel takes the value of the pixel that its centre comes from, in integers.

    Args:
        runs, offsets: of the masks.
        source, target: int64 [N, 4], boxes (x, y, width, height), not empty.
        sizes: int64 [N, 2], canvas (height, width) of each.
    """
    out, count = np.empty(2 * len(runs) + 1024, np.int64), 0
    out_offsets = np.zeros(len(offsets), np.int64)
    for i in range(len(sizes)):
        height, width = sizes[i]
        x0, y0, w0, h0 = source[i]
        x1, y1, w1, h1 = target[i]
        at, stop, start = offsets[i] + 1, offsets[i + 1], runs[offsets[i]]
        done = np.int64(0)  # where the last foreground run of the result ends
        for column in range(width):
            x = x0 + (2 * (column - x1) + 1) * w0 // (2 * w1)
            if x < 0 or x >= width:
                continue
            top, bottom = x * height, (x + 1) * height
            while at < stop and start + runs[at] <= top:
                start += runs[at] + (runs[at + 1] if at + 1 < stop else 0)
                at += 2
            run, begin = at, start
            while run < stop and begin < bottom:
                if count + 3 > len(out):
                    out = np.concatenate((out, np.empty(len(out), np.int64)))
                # The first rows whose centres come from behind the edges of this run.
                first = y1 - (h0 - 2 * (max(begin, top) - top - y0) * h1) // (2 * h0)
                last = y1 - (h0 - 2 * (min(begin + runs[run], bottom) - top - y0) * h1) // (2 * h0)
                low = column * height + min(max(first, 0), height)
                high = column * height + min(max(last, 0), height)
                if high > low and low == done and count > out_offsets[i]:
                    out[count - 1] += high - low
                    done = high
                elif high > low:
                    out[count], out[count + 1] = low - done, high - low
                    count += 2
                    done = high
                begin += runs[run] + (runs[run + 1] if run + 1 < stop else 0)
                run += 2
        if done < height * width:
            if count + 1 > len(out):
                out = np.concatenate((out, np.empty(len(out), np.int64)))
            out[count] = height * width - done
            count += 1
        out_offsets[i + 1] = count
    return out[:count], out_offsets


@compiled
def shared_area(a, start_a, stop_a, b, start_b, stop_b):
    """Count the pixels that are foreground in both of two masks."""
    at_a, at_b = start_a + 1, start_b + 1
    if at_a >= stop_a or at_b >= stop_b:
        return np.int64(0)
    low_a, low_b = a[start_a], b[start_b]
    high_a, high_b = low_a + a[at_a], low_b + b[at_b]
    shared = np.int64(0)
    while True:
        shared += max(np.int64(0), min(high_a, high_b) - max(low_a, low_b))
        if high_a <= high_b:
            at_a += 2
            if at_a >= stop_a:
                return shared
            low_a = high_a + a[at_a - 1]
            high_a = low_a + a[at_a]
        else:
            at_b += 2
            if at_b >= stop_b:
                return shared
            low_b = high_b + b[at_b - 1]
            high_b = low_b + b[at_b]


@compiled
def shared_areas(a, a_offsets, b, b_offsets):
    """Return :func:`shared_area` row by row."""
    areas = np.zeros(len(a_offsets) - 1, np.int64)
    for i in range(len(areas)):
        areas[i] = shared_area(a, a_offsets[i], a_offsets[i + 1], b, b_offsets[i], b_offsets[i + 1])
    return areas


@compiled
def shared_areas_of_pairs(a, a_offsets, i, b, b_offsets, j):
    """Return :func:`shared_area` of masks ``i[p]`` of a and ``j[p]`` of b, for each pair p."""
    areas = np.zeros(len(i), np.int64)
    for p in range(len(i)):
        x, y = i[p], j[p]
        areas[p] = shared_area(a, a_offsets[x], a_offsets[x + 1], b, b_offsets[y], b_offsets[y + 1])
    return areas


@compiled
def overlaps(runs, offsets, boxes, groups):
    """Find pairs (i < j) of masks of one group that share pixels, and count these: int64 [P, 3].

    ``groups`` int64 [G + 1]: rows ``groups[g]:groups[g + 1]`` belong together.
    """
    found = np.empty((1024, 3), np.int64)
    count = 0
    for g in range(len(groups) - 1):
        for i in range(groups[g], groups[g + 1]):
            for j in range(i + 1, groups[g + 1]):
                apart = (
                    boxes[i, 0] >= boxes[j, 0] + boxes[j, 2]
                    or boxes[j, 0] >= boxes[i, 0] + boxes[i, 2]
                    or boxes[i, 1] >= boxes[j, 1] + boxes[j, 3]
                    or boxes[j, 1] >= boxes[i, 1] + boxes[i, 3]
                )
                if apart:
                    continue
                shared = shared_area(
                    runs, offsets[i], offsets[i + 1], runs, offsets[j], offsets[j + 1]
                )
                if shared == 0:
                    continue
                if count == len(found):
                    grown = np.empty((2 * count, 3), np.int64)
                    grown[:count] = found
                    found = grown
                found[count, 0], found[count, 1], found[count, 2] = i, j, shared
                count += 1
    return found[:count]


@compiled
def crossings(points, offsets, widths):
    """Count the pixel columns that each polygon's sides cross, which is the work to draw it."""
    totals = np.zeros(len(widths), np.int64)
    for i in range(len(widths)):
        for at in range(offsets[i], offsets[i + 1]):
            after = at + 1 if at + 1 < offsets[i + 1] else offsets[i]
            first, last = _columns(_grid(points[at, 0]), _grid(points[after, 0]), widths[i])
            totals[i] += max(0, last - first + 1)
    return totals


@compiled
def draw(points, offsets, heights, widths):
    """Return runs and their offsets of polygons, pixel for pixel as pycocotools draws them.

    COCO lays a polygon on a grid five times finer than the image and joins its corners by straight
    lines of grid points; a pixel column begins where such a line steps over the column's middle.
    Walking along the lines costs a step for each grid point; only the steps over a middle, one in
    five or fewer, are computed here, and sorted into their columns.

    Args:
        points: float64 [P, 2], corners (x, y) in pixels, finite.
        offsets: polygon i has ``points[offsets[i]:offsets[i + 1]]``.
        heights, widths: canvas of each polygon.
    """
    runs = np.empty(4096, np.int64)
    run_offsets = np.zeros(len(heights) + 1, np.int64)
    places = np.zeros(widths.max() + 2 if len(widths) else 0, np.int64)
    total = crossings(points, offsets, widths)
    changes = np.empty(total.max() if len(total) else 0, np.int64)
    out = 0
    for i in range(len(heights)):
        height, width = heights[i], widths[i]
        count, start, stop = total[i], offsets[i], offsets[i + 1]
        low, high = _place_columns(points, start, stop, width, places)
        for at in range(start, stop):
            after = at + 1 if at + 1 < stop else start
            _draw_side(points, at, after, height, width, changes, places)
        # Each column's place is now where it ends; back to nothing for the next polygon.
        begin = np.int64(0)
        for column in range(low, high + 1):
            _sort(changes[begin : places[column]])
            begin, places[column] = places[column], 0
        if out + count + 1 > len(runs):
            grown = np.empty(2 * (out + count + 1), np.int64)
            grown[:out] = runs[:out]
            runs = grown
        last, at, pixels = np.int64(0), 0, height * width
        while at < count and changes[at] < pixels:
            after = at
            while after < count and changes[after] == changes[at]:
                after += 1
            # A place where the mask changes an even number of times is no change.
            if (after - at) % 2:
                runs[out] = changes[at] - last
                last = changes[at]
                out += 1
            at = after
        runs[out] = pixels - last
        out += 1
        run_offsets[i + 1] = out
    return runs[:out], run_offsets


@compiled
def _grid(coordinate):
    return np.int64(GRID * coordinate + 0.5)  # towards zero, as a cast in C


@compiled
def _columns(x0, x1, width):
    """Return the first and last pixel column that begins between two grid coordinates."""
    low, high = min(x0, x1), max(x0, x1)
    return max((low + GRID - 3) // GRID, 0), min((high - 3) // GRID, width - 1)


@compiled
def _place_columns(points, start, stop, width, places):
    """Set where each column's part of the changes begins; return the first and last column."""
    low, high = width, np.int64(-1)
    for at in range(start, stop):
        after = at + 1 if at + 1 < stop else start
        first, last = _columns(_grid(points[at, 0]), _grid(points[after, 0]), width)
        if first <= last:
            places[first] += 1
            places[last + 1] -= 1
            low, high = min(low, first), max(high, last)
    sides, begin = np.int64(0), np.int64(0)
    for column in range(low, high + 1):
        sides += places[column]
        places[column] = begin
        begin += sides
    places[high + 1] = 0
    return low, high


@compiled
def _draw_side(points, at, after, height, width, changes, places):
    x0, y0 = _grid(points[at, 0]), _grid(points[at, 1])
    x1, y1 = _grid(points[after, 0]), _grid(points[after, 1])
    first, last = _columns(x0, x1, width)
    if first > last:
        return
    steep = abs(x1 - x0) < abs(y1 - y0)
    # The line is walked along its longer side, upwards: rounding depends on it.
    if (steep and y0 > y1) or (not steep and x0 > x1):
        x0, y0, x1, y1 = x1, y1, x0, y0
    slope = (x1 - x0) / (y1 - y0) if steep else (y1 - y0) / (x1 - x0)
    for column in range(first, last + 1):
        x = GRID * column + 2  # the column begins between x and x + 1
        if steep:
            # The grid point before the step, found by guess and correction.
            t = np.int64(np.ceil((x + 0.5 - x0) / slope))
            rising = slope > 0
            if (np.int64(x0 + slope * (t - 1) + 0.5) > x) == rising:
                t -= 1
            if (np.int64(x0 + slope * t + 0.5) > x) != rising:
                t += 1
            y = y0 + t - 1
        else:
            left = np.int64(y0 + slope * (x - x0) + 0.5)
            y = min(left, np.int64(y0 + slope * (x - x0 + 1) + 0.5))
        y = min(max((y + 2) // GRID, 0), height)
        changes[places[column]] = column * height + y
        places[column] += 1


@compiled
def _sort(values):
    """Sort in place: a column of a common polygon has two changes."""
    if len(values) > 32:
        values.sort()
        return
    for i in range(1, len(values)):
        value, at = values[i], i
        while at > 0 and values[at - 1] > value:
            values[at] = values[at - 1]
            at -= 1
        values[at] = value


@compiled
def close_pairs(a, a_offsets, a_boxes, a_groups, b, b_offsets, b_boxes, b_groups, minimum):
    """Find pairs (i of a, j of b) of one group with IoU >= ``minimum`` > 0: int64 [P, 2], float64.

    Group g has rows ``a_groups[g]:a_groups[g + 1]`` of a, and likewise of b. Most pairs are ruled
    out by their areas and boxes: the shared part is no larger than either mask, nor than the
    intersection of the boxes.
    """
    a_areas, b_areas = area(a, a_offsets), area(b, b_offsets)
    pairs, ious = np.empty((1024, 2), np.int64), np.empty(1024)
    count = 0
    for g in range(len(a_groups) - 1):
        for i in range(a_groups[g], a_groups[g + 1]):
            for j in range(b_groups[g], b_groups[g + 1]):
                total = a_areas[i] + b_areas[j]
                wide = min(a_boxes[i, 0] + a_boxes[i, 2], b_boxes[j, 0] + b_boxes[j, 2]) - max(
                    a_boxes[i, 0], b_boxes[j, 0]
                )
                high = min(a_boxes[i, 1] + a_boxes[i, 3], b_boxes[j, 1] + b_boxes[j, 3]) - max(
                    a_boxes[i, 1], b_boxes[j, 1]
                )
                if not (wide > 0 and high > 0):  # an empty mask has a box of NaN
                    continue
                # From shared / (total - shared) >= minimum, with room for rounding.
                least = minimum * total / (1 + minimum) * (1 - 1e-9)
                if min(a_areas[i], b_areas[j]) < least or np.float64(wide) * high < least:
                    continue
                shared = shared_area(
                    a, a_offsets[i], a_offsets[i + 1], b, b_offsets[j], b_offsets[j + 1]
                )
                iou = shared / (total - shared)
                if iou < minimum:
                    continue
                if count == len(ious):
                    more, greater = np.empty((2 * count, 2), np.int64), np.empty(2 * count)
                    more[:count], greater[:count] = pairs, ious
                    pairs, ious = more, greater
                pairs[count, 0], pairs[count, 1], ious[count] = i, j, iou
                count += 1
    return pairs[:count], ious[:count]


@compiled
def crops(runs, offsets, boxes, heights, widths, side):
    """Return the covered shares of masks in their boxes (x, y, w, h), float32 [N, side, side].

    RoIAlign of the mask (aligned, as many samples per cell as it has pixels per side, rounded up)
    without a canvas: its bilinear weights are a product of one factor per axis, so what a run in a
    pixel column adds is a difference of sums along y, times the column's weights along x.
    """
    out = np.zeros((len(heights), side, side), np.float32)
    down, total = np.empty(side), np.empty((side, side))
    for i in range(len(heights)):
        height = heights[i]
        left, across = _axis_weights(boxes[i, 0], boxes[i, 2], widths[i], side)
        top, along = _axis_weights(boxes[i, 1], boxes[i, 3], height, side)
        sums = np.zeros((along.shape[1] + 1, side))
        for y in range(along.shape[1]):
            sums[y + 1] = sums[y] + along[:, y]
        total[:] = 0
        stop = np.int64(0)
        for at in range(offsets[i] + 1, offsets[i + 1], 2):
            start = stop + runs[at - 1]
            stop = start + runs[at]
            first = max(start // height, left)
            last = min((stop - 1) // height, left + across.shape[1] - 1)
            for x in range(first, last + 1):
                low = min(max(max(start - x * height, 0) - top, 0), along.shape[1])
                high = min(max(min(stop - x * height, height) - top, 0), along.shape[1])
                if high <= low:
                    continue
                down[:] = sums[high] - sums[low]
                for column in range(side):
                    weight = across[column, x - left]
                    if weight > 0:
                        total[:, column] += weight * down
        out[i] = total
    return out


@compiled
def _axis_weights(start, extent, size, side):
    """Return the first pixel that counts, and weights [side, pixels] of pixels in cells."""
    samples = max(np.int64(np.ceil(extent / side)), 1)
    first = min(max(np.int64(np.floor(start)) - 1, 0), size - 1)
    last = min(max(np.int64(np.ceil(start + extent)), first), size - 1)
    weights = np.zeros((side, last - first + 1))
    for cell in range(side):
        for sample in range(samples):
            at = start - 0.5 + extent * (cell + (sample + 0.5) / samples) / side
            if at < -1 or at > size:
                continue
            at = min(max(at, 0.0), size - 1.0)
            low = min(np.int64(at), size - 1)
            high = min(low + 1, size - 1)
            weights[cell, low - first] += (1 - (at - low)) / samples
            if high > low:
                weights[cell, high - first] += (at - low) / samples
    return first, weights
