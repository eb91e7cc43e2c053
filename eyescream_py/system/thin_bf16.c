/* What thin.c does, with numbers in bfloat16, whose products the processor adds up in float32, two
 * at a time; and a Linear's values, too. Sums are rounded once, at the end.
 */
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define COLUMNS 32 /* a line of the cache */
#define TALL 8     /* rows whose sums with a line's columns fit into registers */
#define TERMS 32   /* of sums at once: lines of as many rows are on their way */
#define AHEAD 4    /* lines */
#define MOST 64    /* rows */
#define ALIGNED __attribute__((aligned(64)))

typedef struct {
    const uint16_t *g, *with;  /* [rows,outputs]; weights [outputs,inputs], or x [rows,inputs] */
    uint16_t *made;            /* slopes of x [rows,inputs], or of the weights [outputs,inputs] */
    int64_t rows, outputs, inputs;
    Team team;
    float *memory; /* rows * width numbers of each thread */
    int64_t width; /* columns of a task at most, or of a strip of x that stays in the cache */
    int64_t tasks;
    const uint16_t *bias; /* of values, or NULL */
} Thin;

/* What Python has to know: rows and columns are multiples of these. */
int64_t rows_at_once(void) { return 16; }
int64_t columns_at_once(void) { return COLUMNS; }

typedef __m512i Line;
#define pairs_of(line) ((__m512bh)(line))
#define dot_of(sum, a, b) _mm512_dpbf16_ps(sum, pairs_of(a), pairs_of(b))
#define line_of(left, right) ((Line)_mm512_cvtne2ps_pbh(right, left))

/* Two numbers that follow one another, as one. */
INLINE uint32_t pair_at(const uint16_t *numbers) {
    uint32_t pair;
    memcpy(&pair, numbers, sizeof pair);
    return pair;
}

/* Two rows of a line to pairs of each column. */
INLINE void pair_up(const uint16_t *rows, int64_t apart, Line *pairs) {
    const Line order =
        _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                         37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const Line upper = _mm512_loadu_si512(rows), lower = _mm512_loadu_si512(rows + apart);
    pairs[0] = _mm512_permutex2var_epi16(upper, order, lower);
    pairs[1] = _mm512_permutex2var_epi16(
        upper, _mm512_add_epi16(order, _mm512_set1_epi16(16)), lower);
}

/* Sums of TALL rows and a line's columns over `count` pairs of terms: of a[pair * TALL + row], and
 * pairs of b. `rows`: where those are made from, `apart`, or NULL; `from`: what the sums begin
 * with, or NULL. They are kept in `to`, or rounded in `made`, whose rows are `by_made` apart, or
 * there likewise but past the cache. */
enum end { KEPT, ROUNDED, PAST };

INLINE void add_up(const uint32_t *a, Line (*b)[2], const uint16_t *rows, int64_t apart,
                   int64_t count, const float *from, float *to, uint16_t *made, int64_t by_made,
                   const enum end end) {
    Vector sums[TALL][2];
#pragma GCC unroll 8
    for (int i = 0; i < TALL; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            sums[i][j] = from ? load(from + i * COLUMNS + j * LANES) : none();
    for (int64_t k = 0; k < count; k++) {
        Line pairs[2] = {b[k][0], b[k][1]};
        if (rows) {
            pair_up(rows + 2 * k * apart, apart, pairs);
            b[k][0] = pairs[0];
            b[k][1] = pairs[1];
        }
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++) {
            const Line factor = _mm512_set1_epi32(a[k * TALL + i]);
            sums[i][0] = dot_of(sums[i][0], pairs[0], factor);
            sums[i][1] = dot_of(sums[i][1], pairs[1], factor);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < TALL; i++) {
        if (end == PAST) {
            _mm512_stream_si512((Line *)(made + i * by_made), line_of(sums[i][0], sums[i][1]));
        } else if (end == ROUNDED) {
            _mm512_storeu_si512(made + i * by_made, line_of(sums[i][0], sums[i][1]));
        } else {
            store(to + i * COLUMNS, sums[i][0]);
            store(to + i * COLUMNS + LANES, sums[i][1]);
        }
    }
}

/* As in thin.c. */
INLINE void add_line(const Thin *w, const uint32_t *g, const uint16_t *weights, int64_t count,
                     float *sums, uint16_t *made, const int begins, const enum end end) {
    Line kept[TERMS / 2][2];
    for (int64_t n = 0; n < w->rows; n += TALL) {
        float *sum = sums + n * COLUMNS;
        const float *from = begins ? NULL : sum;
        uint16_t *to = made + n * w->inputs;
        if (n == 0)
            add_up(g, kept, weights, w->inputs, count, from, sum, to, w->inputs, end);
        else
            add_up(g + n * TERMS / 2, kept, NULL, 0, count, from, sum, to, w->inputs, end);
    }
}

static void add_columns(const Thin *w, int64_t first, int64_t end, float *memory) {
    uint32_t g[TERMS / 2 * MOST] ALIGNED;
    for (int64_t o = 0; o < w->outputs; o += TERMS) {
        const int64_t terms = w->outputs - o < TERMS ? w->outputs - o : TERMS;
        const int ends = o + terms == w->outputs;
        for (int64_t k = 0; k < terms / 2; k++)
            for (int64_t n = 0; n < w->rows; n++)
                g[n / TALL * TALL * TERMS / 2 + k * TALL + n % TALL] =
                    pair_at(w->g + n * w->outputs + o + 2 * k);
        for (int64_t c = first; c < end; c += COLUMNS) {
            const uint16_t *weights = w->with + o * w->inputs + c;
            float *sums = memory + (c - first) * w->rows;
            const uint16_t *ahead = weights + AHEAD * COLUMNS;
            int64_t coming = terms;
            if (c + AHEAD * COLUMNS >= end) { /* those of the next block */
                ahead += TERMS * w->inputs - (end - first);
                coming = w->outputs - o - terms < TERMS ? w->outputs - o - terms : TERMS;
            }
            for (int64_t k = 0; k < coming; k++)
                _mm_prefetch((const char *)(ahead + k * w->inputs), _MM_HINT_T1);
            if (o == 0 && ends)
                add_line(w, g, weights, terms / 2, sums, w->made + c, 1, ROUNDED);
            else if (o == 0)
                add_line(w, g, weights, terms / 2, sums, w->made + c, 1, KEPT);
            else if (ends)
                add_line(w, g, weights, terms / 2, sums, w->made + c, 0, ROUNDED);
            else
                add_line(w, g, weights, terms / 2, sums, w->made + c, 0, KEPT);
        }
    }
}

/* made = g @ weights */
void slopes_of_rows(void *work) {
    const Thin *w = work;
    float *memory = w->memory + w->team.thread() * w->width * w->rows;
    const int64_t lines = w->inputs / COLUMNS;
    for (int64_t task; (task = next_task(&w->team, w->tasks)) >= 0;)
        add_columns(w, task * lines / w->tasks * COLUMNS, (task + 1) * lines / w->tasks * COLUMNS,
                    memory);
}

/* made = transpose of g @ x */
void slopes_of_weights(void *work) {
    const Thin *w = work;
    Line(*x)[2] = (Line(*)[2])(w->memory + w->team.thread() * w->width * w->rows);
    uint32_t g[TALL * MOST / 2] ALIGNED;
    const int64_t blocks = w->outputs / TALL, pairs = w->rows / 2;
    for (int64_t task; (task = next_task(&w->team, w->tasks)) >= 0;) {
        const int64_t first = task * blocks / w->tasks * TALL;
        const int64_t end = (task + 1) * blocks / w->tasks * TALL;
        for (int64_t strip = 0; strip < w->inputs; strip += w->width) {
            const int64_t left = w->inputs - strip, width = left < w->width ? left : w->width;
            for (int64_t c = 0; c < width; c += COLUMNS)
                for (int64_t k = 0; k < pairs; k++)
                    pair_up(w->with + 2 * k * w->inputs + strip + c, w->inputs,
                            x[c / COLUMNS * pairs + k]);
            for (int64_t o = first; o < end; o += TALL) {
                for (int64_t k = 0; k < pairs; k++)
                    for (int i = 0; i < TALL; i++)
                        g[k * TALL + i] = w->g[2 * k * w->outputs + o + i] |
                                          (uint32_t)w->g[(2 * k + 1) * w->outputs + o + i] << 16;
                for (int64_t c = 0; c < width; c += COLUMNS)
                    add_up(g, x + c / COLUMNS * pairs, NULL, 0, pairs, NULL, NULL,
                           w->made + o * w->inputs + strip + c, w->inputs, PAST);
            }
        }
    }
    _mm_sfence(); /* what passed by the cache is there for all */
}

/* Sums of TALL rows of the weights, `apart`, with `wide` vectors of rows of x over `terms`. */
INLINE void add_rows(const uint16_t *weights, int64_t apart, const Line *x, int64_t terms,
                     float *sums, const int begins, const int wide) {
    Vector sum[TALL][3];
#pragma GCC unroll 8
    for (int i = 0; i < TALL; i++)
#pragma GCC unroll 3
        for (int j = 0; j < wide; j++)
            sum[i][j] = begins ? none() : load(sums + (i * wide + j) * LANES);
    for (int64_t k = 0; k < terms; k += COLUMNS, weights += COLUMNS) {
#pragma GCC unroll 8
        for (int i = 0; i < TALL; i++)
            _mm_prefetch((const char *)(weights + i * apart + AHEAD * COLUMNS), _MM_HINT_T0);
#pragma GCC unroll 16
        for (int pair = 0; pair < COLUMNS / 2; pair++, x += wide)
#pragma GCC unroll 8
            for (int i = 0; i < TALL; i++) {
                const Line factor = _mm512_set1_epi32(pair_at(weights + i * apart + 2 * pair));
#pragma GCC unroll 3
                for (int j = 0; j < wide; j++)
                    sum[i][j] = dot_of(sum[i][j], x[j], factor);
            }
    }
#pragma GCC unroll 8
    for (int i = 0; i < TALL; i++)
#pragma GCC unroll 3
        for (int j = 0; j < wide; j++)
            store(sums + (i * wide + j) * LANES, sum[i][j]);
}

INLINE void add_block(const Thin *w, const uint16_t *weights, const Line *x, int64_t terms,
                      float *sums, const int begins) {
    if (w->rows == LANES)
        add_rows(weights, w->inputs, x, terms, sums, begins, 1);
    else if (w->rows == 2 * LANES)
        add_rows(weights, w->inputs, x, terms, sums, begins, 2);
    else
        add_rows(weights, w->inputs, x, terms, sums, begins, 3);
}

/* A column of the values of all rows, rounded. */
static void finish(const Thin *w, const float *sums, int64_t output) {
    const uint32_t bias = w->bias ? (uint32_t)w->bias[output] << 16 : 0;
    for (int64_t n = 0; n < w->rows; n += LANES) {
        const Vector sum = load(sums + n) + (Vector)_mm512_set1_epi32(bias);
        uint16_t each[LANES];
        _mm256_storeu_si256((__m256i *)each, (__m256i)_mm512_cvtneps_pbh(sum));
        for (int i = 0; i < LANES; i++)
            w->made[(n + i) * w->outputs + output] = each[i];
    }
}

/* made [rows,outputs] = g @ transpose of weights + bias; g are x here, [rows,inputs], which lie in
 * `memory` by pairs, those of all rows together, and behind them sums of all outputs. */
void values(void *work) {
    const Thin *w = work;
    uint32_t *x = (uint32_t *)(w->memory + w->team.thread() * w->width * w->rows);
    const int64_t deep = 2 * (w->width - w->outputs), blocks = w->outputs / TALL;
    float *sums = (float *)x + deep / 2 * w->rows;
    for (int64_t task; (task = next_task(&w->team, w->tasks)) >= 0;) {
        const int64_t first = task * blocks / w->tasks * TALL;
        const int64_t end = (task + 1) * blocks / w->tasks * TALL;
        for (int64_t k = 0; k < w->inputs; k += deep) {
            const int64_t terms = w->inputs - k < deep ? w->inputs - k : deep;
            for (int64_t n = 0; n < w->rows; n++)
                for (int64_t c = 0; c < terms; c += 2)
                    x[c / 2 * w->rows + n] = pair_at(w->g + n * w->inputs + k + c);
            for (int64_t o = first; o < end; o += TALL) {
                const uint16_t *weights = w->with + o * w->inputs + k;
                if (k == 0)
                    add_block(w, weights, (Line *)x, terms, sums + o * w->rows, 1);
                else
                    add_block(w, weights, (Line *)x, terms, sums + o * w->rows, 0);
            }
        }
        for (int64_t o = first; o < end; o++)
            finish(w, sums + o * w->rows, o);
    }
}
