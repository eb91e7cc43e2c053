/* A step of Adam with all that surrounds it, in one pass over memory: penalty, clamp, Adam, weights
 * rounded to bfloat16. The same bits as torch's operators one after the other: their kernel of Adam
 * goes by groups of eight numbers, and rounds the rest in another order.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 8192 /* numbers that a thread takes at once */
#define GROUP 8

typedef struct {
    float *weights, *gradient, *m, *v;
    uint16_t *rounded; /* bfloat16, or NULL */
    int64_t size;
} Part;

typedef struct {
    const Part *parts;
    int64_t count;
    float l1, l2, low, high;       /* penalty, bounds of the gradient */
    float fresh1, beta2, fresh2;   /* 1-beta1, beta2, 1-beta2 */
    float step, eps;
    int64_t next; /* block, of all parts */
} Step;

static inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : even;
}

static inline __attribute__((always_inline)) void
numbers(const Step *step, Part p, int64_t count, const int signs, const int squares, const int whole,
        const int rounds) {
    float *restrict weights = p.weights, *restrict gradient = p.gradient;
    float *restrict m = p.m, *restrict v = p.v;
    uint16_t *restrict rounded = p.rounded;
    const float l1 = step->l1, l2 = step->l2, low = step->low, high = step->high;
    const float fresh1 = step->fresh1, beta2 = step->beta2, fresh2 = step->fresh2;
    const float size = -step->step, eps = step->eps;
    /* that of the two ends from which the way is shorter, as torch's lerp */
    const float share = fresh1 < 0.5f ? fresh1 : fresh1 - 1;
    const int from_m = fresh1 < 0.5f;
    for (int64_t i = 0; i < count; i++) {
        float w = weights[i], g = gradient[i], before = m[i];
        if (signs)
            g = fmaf(l1, (w > 0 ? 1.0f : 0.0f) - (w < 0 ? 1.0f : 0.0f), g);
        if (squares)
            g = fmaf(l2, w, g);
        g = g < low ? low : g; /* NaN stays */
        g = g > high ? high : g;
        float mean = fmaf(share, g - before, from_m ? before : g);
        float square = fresh2 * g;
        square = whole ? fmaf(square, g, v[i] * beta2) : fmaf(v[i], beta2, square * g);
        w = w + size * mean / (sqrtf(square) + eps);
        weights[i] = w;
        gradient[i] = g;
        m[i] = mean;
        v[i] = square;
        if (rounds)
            rounded[i] = to_bfloat16(w);
    }
}

/* Loops without branches, for the compiler to find in each of them what it can do eight times. */
static void with_penalty(const Step *step, Part p, int64_t count, const int whole) {
    if (step->l1 != 0)
        p.rounded ? numbers(step, p, count, 1, step->l2 != 0, whole, 1)
                  : numbers(step, p, count, 1, step->l2 != 0, whole, 0);
    else
        p.rounded ? numbers(step, p, count, 0, step->l2 != 0, whole, 1)
                  : numbers(step, p, count, 0, step->l2 != 0, whole, 0);
}

static Part from(Part p, int64_t start) {
    p.weights += start, p.gradient += start, p.m += start, p.v += start, p.size -= start;
    if (p.rounded)
        p.rounded += start;
    return p;
}

/* What each thread does: blocks that no other has taken, until there are none. */
void adam(void *work) {
    Step *step = work;
    const Part *part = step->parts, *end = part + step->count;
    int64_t passed = 0; /* blocks of the parts before this one */
    for (;;) {
        int64_t block = __atomic_fetch_add(&step->next, 1, __ATOMIC_RELAXED);
        for (; part < end && block >= passed + (part->size + BLOCK - 1) / BLOCK; part++)
            passed += (part->size + BLOCK - 1) / BLOCK;
        if (part == end)
            return;
        Part rest = from(*part, (block - passed) * BLOCK);
        int64_t count = rest.size < BLOCK ? rest.size : BLOCK, groups = count / GROUP * GROUP;
        with_penalty(step, rest, groups, 1);
        with_penalty(step, from(rest, groups), count - groups, 0);
    }
}
