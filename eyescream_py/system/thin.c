/* Products of few rows, a batch's, with large weights: each number of the weights is read, or
 * written, once, and meets all rows while it is in a register. Matrices lie row by row in memory;
 * what is read several times is copied together, as rows of 4 KB and more fall on one another in a
 * cache.
 */
#include <stdint.h>

#include "vectors.h"

#define COLUMNS 16 /* a line of the cache, in float32 */
#define PIECES (COLUMNS / LANES)
#define TALL (LANES == 16 ? 16 : 4) /* rows whose sums with a line's columns fit into registers */
#define TERMS 16                    /* of sums at once: lines of as many rows are on their way */
#define AHEAD 2                     /* lines */
#define MOST 64                     /* rows */
#define ALIGNED __attribute__((aligned(64)))

typedef struct {
    const float *g, *with; /* [rows,outputs]; weights [outputs,inputs], or x [rows,inputs] */
    float *made;           /* slopes of x [rows,inputs], or of the weights [outputs,inputs] */
    int64_t rows, outputs, inputs;
    Team team;
    float *memory; /* rows * width numbers of each thread */
    int64_t width; /* columns of a task at most, or of a strip of x that stays in the cache */
    int64_t tasks;
} Thin;

/* What Python has to know: rows and columns are multiples of these. */
int64_t rows_at_once(void) { return TALL; }
int64_t columns_at_once(void) { return COLUMNS; }

#if LANES == 16
#define pass_by _mm512_stream_ps
#else
#define pass_by _mm256_stream_ps
#endif

/* Sums of TALL rows and a line's columns over `terms`: of a[term * by_a + row], and lines of b,
 * `by_b` apart. `from`: what they begin with, or NULL; `kept`: where the lines are copied, or NULL;
 * `last`: nobody reads them soon, they pass by the cache. */
INLINE void add_up(const float *a, int64_t by_a, const float *b, int64_t by_b, int64_t terms,
                   const float *from, float *to, int64_t apart, float *kept, const int last) {
    Vector sums[TALL][PIECES];
#pragma GCC unroll 16
    for (int i = 0; i < TALL; i++)
#pragma GCC unroll 2
        for (int j = 0; j < PIECES; j++)
            sums[i][j] = from ? load(from + i * COLUMNS + j * LANES) : none();
    for (int64_t k = 0; k < terms; k++, a += by_a, b += by_b) {
        Vector line[PIECES];
#pragma GCC unroll 2
        for (int j = 0; j < PIECES; j++) {
            line[j] = load(b + j * LANES);
            if (kept)
                store(kept + k * COLUMNS + j * LANES, line[j]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < TALL; i++) {
            const Vector factor = all_of(a[i]);
#pragma GCC unroll 2
            for (int j = 0; j < PIECES; j++)
                sums[i][j] = fma_of(factor, line[j], sums[i][j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < TALL; i++)
#pragma GCC unroll 2
        for (int j = 0; j < PIECES; j++) {
            if (last)
                pass_by(to + i * apart + j * LANES, sums[i][j]);
            else
                store(to + i * apart + j * LANES, sums[i][j]);
        }
}

/* A line of some rows of the weights times all rows of g; `begins`, `ends`: whether they are the
 * first and the last ones. */
INLINE void add_line(const Thin *w, const float *g, const float *weights, int64_t terms,
                     float *sums, float *made, const int begins, const int ends) {
    float kept[TERMS * COLUMNS] ALIGNED;
    for (int64_t n = 0; n < w->rows; n += TALL) {
        float *sum = sums + n * COLUMNS, *to = ends ? made + n * w->inputs : sum;
        const float *from = begins ? NULL : sum;
        const int64_t apart = ends ? w->inputs : COLUMNS;
        if (n > 0)
            add_up(g + n * TERMS, TALL, kept, COLUMNS, terms, from, to, apart, NULL, 0);
        else if (w->rows > TALL)
            add_up(g, TALL, weights, w->inputs, terms, from, to, apart, kept, 0);
        else
            add_up(g, TALL, weights, w->inputs, terms, from, to, apart, NULL, 0);
    }
}

/* Columns from `first` to `end`, by blocks of rows of the weights; sums stay in `memory`. */
static void add_columns(const Thin *w, int64_t first, int64_t end, float *memory) {
    float g[TERMS * MOST] ALIGNED;
    for (int64_t o = 0; o < w->outputs; o += TERMS) {
        const int64_t terms = w->outputs - o < TERMS ? w->outputs - o : TERMS;
        const int ends = o + terms == w->outputs;
        for (int64_t k = 0; k < terms; k++)
            for (int64_t n = 0; n < w->rows; n++)
                g[n / TALL * TALL * TERMS + k * TALL + n % TALL] = w->g[n * w->outputs + o + k];
        for (int64_t c = first; c < end; c += COLUMNS) {
            const float *weights = w->with + o * w->inputs + c;
            float *sums = memory + (c - first) * w->rows;
            const float *ahead = weights + AHEAD * COLUMNS;
            int64_t coming = terms;
            if (c + AHEAD * COLUMNS >= end) { /* those of the next block */
                ahead += TERMS * w->inputs - (end - first);
                coming = w->outputs - o - terms < TERMS ? w->outputs - o - terms : TERMS;
            }
            for (int64_t k = 0; k < coming; k++)
                _mm_prefetch((const char *)(ahead + k * w->inputs), _MM_HINT_T1);
            if (o == 0 && ends)
                add_line(w, g, weights, terms, sums, w->made + c, 1, 1);
            else if (o == 0)
                add_line(w, g, weights, terms, sums, w->made + c, 1, 0);
            else if (ends)
                add_line(w, g, weights, terms, sums, w->made + c, 0, 1);
            else
                add_line(w, g, weights, terms, sums, w->made + c, 0, 0);
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
    float *x = w->memory + w->team.thread() * w->width * w->rows;
    float g[TALL * MOST] ALIGNED;
    const int64_t blocks = w->outputs / TALL;
    for (int64_t task; (task = next_task(&w->team, w->tasks)) >= 0;) {
        const int64_t first = task * blocks / w->tasks * TALL;
        const int64_t end = (task + 1) * blocks / w->tasks * TALL;
        for (int64_t strip = 0; strip < w->inputs; strip += w->width) {
            const int64_t left = w->inputs - strip, width = left < w->width ? left : w->width;
            for (int64_t n = 0; n < w->rows; n++)
                for (int64_t c = 0; c < width; c += LANES)
                    store(x + c / COLUMNS * COLUMNS * w->rows + n * COLUMNS + c % COLUMNS,
                          load(w->with + n * w->inputs + strip + c));
            for (int64_t o = first; o < end; o += TALL) {
                for (int64_t n = 0; n < w->rows; n++)
                    for (int i = 0; i < TALL; i++)
                        g[n * TALL + i] = w->g[n * w->outputs + o + i];
                for (int64_t c = 0; c < width; c += COLUMNS)
                    add_up(g, TALL, x + c * w->rows, COLUMNS, w->rows, NULL,
                           w->made + o * w->inputs + strip + c, w->inputs, NULL, 1);
            }
        }
    }
    _mm_sfence(); /* what passed by the cache is there for all */
}
