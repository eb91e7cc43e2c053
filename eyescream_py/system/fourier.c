/* Convolutions through Fourier transforms: planes to frequencies, products by these, and back.
 *
 * A vector holds a pixel of LANES planes, so that nothing is shifted within one. A transform along
 * a side is two products with constant matrices of half its length: cosines meet sums of samples at
 * places j and -j of the circle, sines their differences.
 */
#include <stddef.h>
#include <string.h>

#include "vectors.h"

#define PLANES 16 /* that a block has side by side: a line of the cache */
#define VECTORS (PLANES / LANES)
#define ROWS_AHEAD 2 /* of a plane: the processor does not foresee as many streams as planes */

/* `put` stores past the caches what is not read again soon, whole lines at a time. */
#ifdef __AVX512F__
#define SUMS 16 /* rows of a block's product that are summed in registers at once */
#define add _mm512_add_ps
#define subtract _mm512_sub_ps
#define put _mm512_stream_ps
#define put_line put
#else
#define SUMS 4
#define add _mm256_add_ps
#define subtract _mm256_sub_ps
#define put _mm256_stream_ps
#define put_line store /* no whole one */
#endif

/* What Python has to know: numbers of a vector. */
void lanes(void *work) {
    *(int64_t *)work = LANES;
}

/* The first `count` numbers alone, zeros for the others. */
INLINE Vector load_some(const float *from, int64_t count) {
    if (count >= LANES)
        return load(from);
#ifdef __AVX512F__
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#else
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), places));
#endif
}

INLINE void store_some(float *to, Vector v, int64_t count) {
    if (count >= LANES) {
        store(to, v);
        return;
    }
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), v);
#else
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), places), v);
#endif
}

/* Rows a and b with the places of their numbers exchanged in which `bit` of the place is set in a,
 * and is not in b. */
INLINE void exchange(Vector *a, Vector *b, const int bit) {
    const Vector first = *a, second = *b;
#ifdef __AVX512F__
    const __m512i places =
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i by = _mm512_set1_epi32(bit), other = _mm512_set1_epi32(16);
    const __mmask16 set = _mm512_test_epi32_mask(places, by);
    const __m512i low = _mm512_sub_epi32(_mm512_add_epi32(places, other), by);
    const __m512i high = _mm512_add_epi32(places, other);
    *a = _mm512_permutex2var_ps(first, _mm512_mask_blend_epi32(set, places, low), second);
    const __m512i up = _mm512_add_epi32(places, by);
    *b = _mm512_permutex2var_ps(first, _mm512_mask_blend_epi32(set, up, high), second);
#else
    if (bit == 4) {
        *a = _mm256_permute2f128_ps(first, second, 0x20);
        *b = _mm256_permute2f128_ps(first, second, 0x31);
    } else if (bit == 2) {
        *a = _mm256_shuffle_ps(first, second, 0x44);
        *b = _mm256_shuffle_ps(first, second, 0xee);
    } else {
        *a = _mm256_blend_ps(first, _mm256_moveldup_ps(second), 0xaa);
        *b = _mm256_blend_ps(_mm256_movehdup_ps(first), second, 0xaa);
    }
#endif
}

/* Rows become columns. */
INLINE void turn(Vector v[LANES]) {
#pragma GCC unroll 4
    for (int bit = LANES / 2; bit; bit /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & bit))
                exchange(v + i, v + i + bit, bit);
}

#define EACH_VECTOR for (int v = 0; v < PLANES; v += LANES)

/* rows x PLANES sums of a (without gaps) with b. */
INLINE void some_rows(const int rows, const float *a, const float *b, int64_t terms, float *sum,
                      int64_t apart) {
    Vector sums[SUMS][VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; j++)
            sums[i][j] = none();
    for (int64_t k = 0; k < terms; k++, b += PLANES, a++)
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int j = 0; j < VECTORS; j++)
                sums[i][j] = fma_of(all_of(a[i * terms]), load(b + j * LANES), sums[i][j]);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; j++)
            store(sum + i * apart + j * LANES, sums[i][j]);
}

/* DO(rows) with a constant for the compiler. */
#define CASE(n, DO) case n: DO(n); break;
#define UP_TO_4(DO) CASE(4, DO) CASE(3, DO) CASE(2, DO) CASE(1, DO)
#define UP_TO_8(DO) CASE(8, DO) CASE(7, DO) CASE(6, DO) CASE(5, DO) UP_TO_4(DO)
#define FROM_9(DO) CASE(12, DO) CASE(11, DO) CASE(10, DO) CASE(9, DO)
#define UP_TO_16(DO) CASE(16, DO) CASE(15, DO) CASE(14, DO) CASE(13, DO) FROM_9(DO) UP_TO_8(DO)
#ifdef __AVX512F__
#define UP_TO_SUMS UP_TO_16
#define UP_TO_ROWS UP_TO_8
#else
#define UP_TO_SUMS UP_TO_4
#define UP_TO_ROWS UP_TO_4
#endif

/* m x PLANES sums, rows `apart`, of a (m x terms) with b: in blocks of rows as even as can be, as
 * few sums at once wait for each other. */
static void multiply(const float *a, int64_t m, int64_t terms, const float *b, float *sum,
                     int64_t apart) {
    const int64_t blocks = (m + SUMS - 1) / SUMS;
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t row = i * m / blocks;
#define SOME(rows) some_rows(rows, a + row * terms, b, terms, sum + row * apart, apart)
        switch ((i + 1) * m / blocks - row) { UP_TO_SUMS(SOME) }
    }
}

/* A side of planes: `count` samples on a circle. Sample plus[j] is at place j, minus[j] at -j, if
 * one is, else -1; j is below `evens` for cosines, 1 to `odds` for sines. Frequencies 0 to
 * `frequencies`-1 are kept of real samples, of which 1 to `mirrored` have a mirrored one. */
typedef struct {
    int64_t count, circle, evens, odds, frequencies, mirrored;
    const int64_t *plus, *minus;
    const float *cosine, *sine;           /* [frequencies,evens], -[mirrored,odds] */
    const float *back_cosine, *back_sine; /* their transposes, by the circle's length */
} Axis;

/* Where sums and differences lie, and what cosines and sines make of them, of real and imaginary
 * part: `room` lines each. */
typedef struct {
    float *even[2], *odd[2], *cosine[2], *sine[2];
} Halves;

static Halves halves_at(float *memory, int64_t room) {
    Halves h;
    float **all[4] = {h.even, h.odd, h.cosine, h.sine};
    for (int i = 0; i < 8; i++)
        all[i / 2][i % 2] = memory + i * room * PLANES;
    return h;
}

/* What cosines and sines make of real samples, `apart`: of spectra the real and imaginary part. */
static void sums_of_samples(const Axis *axis, const float *samples, int64_t apart, Halves *h,
                            const int part, float *cosine, float *sine, int64_t out_apart) {
    float *even = h->even[part], *odd = h->odd[part];
    for (int64_t j = 0; j < axis->evens; j++) {
        const float *plus = axis->plus[j] < 0 ? NULL : samples + axis->plus[j] * apart;
        const float *minus = axis->minus[j] < 0 ? NULL : samples + axis->minus[j] * apart;
        EACH_VECTOR {
            const Vector a = plus ? load(plus + v) : none(), b = minus ? load(minus + v) : none();
            store(even + j * PLANES + v, add(a, b));
            if (j && j <= axis->odds)
                store(odd + (j - 1) * PLANES + v, subtract(a, b));
        }
    }
    multiply(axis->cosine, axis->frequencies, axis->evens, even, cosine, out_apart);
    multiply(axis->sine, axis->mirrored, axis->odds, odd, sine, out_apart);
}

/* And back: from real parts `re` and imaginary ones `im`, those of frequency 1 and up. */
static void samples_of_half(const Axis *axis, const float *re, const float *im, int64_t apart,
                            Halves *h, float *samples, int64_t out_apart) {
    float *even = h->even[0], *odd = h->odd[0];
    for (int64_t f = 0; f < axis->frequencies; f++)
        EACH_VECTOR {
            const Vector a = load(re + f * apart + v);
            if (!f || f > axis->mirrored) {
                store(even + f * PLANES + v, a);
                continue;
            }
            const Vector b = load(im + (f - 1) * apart + v); /* mirrored ones count as well */
            store(even + f * PLANES + v, add(a, a));
            store(odd + (f - 1) * PLANES + v, add(b, b));
        }
    multiply(axis->back_cosine, axis->evens, axis->frequencies, even, h->cosine[0], PLANES);
    multiply(axis->back_sine, axis->odds, axis->mirrored, odd, h->sine[0], PLANES);
    for (int64_t j = 0; j < axis->evens; j++)
        EACH_VECTOR {
            const Vector a = load(h->cosine[0] + j * PLANES + v);
            const int both = j && j <= axis->odds;
            const Vector b = both ? load(h->sine[0] + (j - 1) * PLANES + v) : none();
            if (axis->plus[j] >= 0)
                store(samples + axis->plus[j] * out_apart + v, add(a, b));
            if (axis->minus[j] >= 0)
                store(samples + axis->minus[j] * out_apart + v, subtract(a, b));
        }
}

/* Planes and their spectrum, which is [frequency][part][lane]: lanes are `outer` times `inner`
 * planes, whole vectors, of which the first `held` are there. */
typedef struct {
    float *planes;
    const float *bias; /* of outer planes, added on the way back; or NULL */
    float *spectrum;
    Axis rows, columns; /* along the height, along the width */
    int64_t inner, held, outer, by_inner, by_outer;
    int64_t lanes; /* from a part of the spectrum to the next */
    int64_t room;  /* lines of an axis's half at most */
    Team team;
    float *memory; /* of each thread `own` numbers */
    int64_t own;
} Transform;

/* Planes of a vector. */
typedef struct {
    float *first;
    int64_t count, apart;
    float bias;
} Group;

static Group group_at(const Transform *t, int64_t lane) {
    const int64_t outer = lane / t->inner, inner = lane % t->inner;
    Group g = {NULL, 0, t->by_inner, 0};
    if (outer >= t->outer || inner >= t->held)
        return g;
    g.first = t->planes + outer * t->by_outer + inner * t->by_inner;
    g.count = t->held - inner < LANES ? t->held - inner : LANES;
    g.bias = t->bias ? t->bias[outer] : 0;
    return g;
}

INLINE void ahead(const Group *g, int64_t pixel) {
    for (int64_t i = 0; i < g->count; i++)
        __builtin_prefetch(g->first + i * g->apart + pixel);
}

/* `width` pixels of each plane from `start` on, as vectors, PLANES numbers apart. */
static void row_of_planes(const Group *g, int64_t start, int64_t width, float *to) {
    for (int64_t x = 0; x < width; x += LANES) {
        Vector v[LANES];
        const int64_t left = width - x;
        ahead(g, start + x + ROWS_AHEAD * width);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            v[i] = i < g->count ? load_some(g->first + i * g->apart + start + x, left) : none();
        turn(v);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (i < left)
                store(to + (x + i) * PLANES, v[i]);
    }
}

static void planes_of_row(const Group *g, int64_t start, int64_t width, const float *from) {
    const Vector bias = all_of(g->bias);
    for (int64_t x = 0; x < width; x += LANES) {
        Vector v[LANES];
        const int64_t left = width - x;
        ahead(g, start + x + ROWS_AHEAD * width);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            v[i] = i < left ? add(load(from + (x + i) * PLANES), bias) : none();
        turn(v);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (i < g->count)
                store_some(g->first + i * g->apart + start + x, v[i], left);
    }
}

/* Columns whose lines are real: half of their frequencies is kept. */
INLINE int is_real(const Axis *columns, int64_t f) {
    return !f || f > columns->mirrored;
}

/* Where a column's frequencies begin in a spectrum. */
INLINE int64_t start_of(const Transform *t, int64_t column) {
    return column ? t->rows.frequencies + (column - 1) * t->rows.circle : 0;
}

/* A column of lines, which are [row][column][part][PLANES], to its frequencies. */
static void column_forth(const Transform *t, const float *lines, int64_t column, Halves *h,
                         float *to) {
    const Axis *rows = &t->rows;
    const int64_t line = 2 * t->columns.frequencies * PLANES, lanes = t->lanes;
    const float *re = lines + 2 * column * PLANES;
    to += start_of(t, column) * 2 * lanes;
    if (is_real(&t->columns, column)) {
        sums_of_samples(rows, re, line, h, 0, to, to + 3 * lanes, 2 * lanes);
        for (int64_t f = 0; f < rows->frequencies; f++)
            if (!f || f > rows->mirrored)
                EACH_VECTOR store(to + (2 * f + 1) * lanes + v, none());
        return;
    }
    for (int part = 0; part < 2; part++)
        sums_of_samples(rows, re + part * PLANES, line, h, part, h->cosine[part], h->sine[part],
                        PLANES);
    for (int64_t f = 0; f < rows->frequencies; f++)
        EACH_VECTOR {
            float *there = to + 2 * f * lanes + v;
            const Vector ec = load(h->cosine[0] + f * PLANES + v);
            const Vector ei = load(h->cosine[1] + f * PLANES + v);
            if (!f || f > rows->mirrored) {
                put(there, ec);
                put(there + lanes, ei);
                continue;
            }
            const Vector sc = load(h->sine[0] + (f - 1) * PLANES + v);
            const Vector si = load(h->sine[1] + (f - 1) * PLANES + v);
            float *mirrored = to + 2 * (rows->circle - f) * lanes + v;
            put(there, subtract(ec, si));
            put(there + lanes, add(ei, sc));
            put(mirrored, add(ec, si));
            put(mirrored + lanes, subtract(ei, sc));
        }
}

static void column_back(const Transform *t, const float *from, int64_t column, Halves *h,
                        float *lines) {
    const Axis *rows = &t->rows;
    const int64_t line = 2 * t->columns.frequencies * PLANES, lanes = t->lanes;
    float *re = lines + 2 * column * PLANES;
    from += start_of(t, column) * 2 * lanes;
    if (is_real(&t->columns, column)) {
        samples_of_half(rows, from, from + 3 * lanes, 2 * lanes, h, re, line);
        return;
    }
    for (int64_t f = 0; f < rows->frequencies; f++)
        for (int part = 0; part < 2; part++)
            EACH_VECTOR {
                const float *next = from + (2 * rows->circle + part) * lanes + v; /* column */
                __builtin_prefetch(next + 2 * f * lanes, 0, 2);
                __builtin_prefetch(next + 2 * (rows->circle - f) * lanes, 0, 2);
                const Vector a = load(from + (2 * f + part) * lanes + v);
                if (!f || f > rows->mirrored) {
                    store(h->even[part] + f * PLANES + v, a);
                    continue;
                }
                const Vector b = load(from + (2 * (rows->circle - f) + part) * lanes + v);
                store(h->even[part] + f * PLANES + v, add(a, b));
                store(h->odd[part] + (f - 1) * PLANES + v, subtract(a, b));
            }
    for (int part = 0; part < 2; part++) {
        multiply(rows->back_cosine, rows->evens, rows->frequencies, h->even[part],
                 h->cosine[part], PLANES);
        multiply(rows->back_sine, rows->odds, rows->mirrored, h->odd[part], h->sine[part], PLANES);
    }
    for (int64_t j = 0; j < rows->evens; j++)
        EACH_VECTOR {
            const int both = j && j <= rows->odds;
            const Vector ec = load(h->cosine[0] + j * PLANES + v);
            const Vector ei = load(h->cosine[1] + j * PLANES + v);
            const Vector sc = both ? load(h->sine[0] + (j - 1) * PLANES + v) : none();
            const Vector si = both ? load(h->sine[1] + (j - 1) * PLANES + v) : none();
            if (rows->plus[j] >= 0) {
                store(re + rows->plus[j] * line + v, add(ec, si));
                store(re + rows->plus[j] * line + PLANES + v, subtract(ei, sc));
            }
            if (rows->minus[j] >= 0) {
                store(re + rows->minus[j] * line + v, subtract(ec, si));
                store(re + rows->minus[j] * line + PLANES + v, add(ei, sc));
            }
        }
}

/* A block of planes through both axes while it lies in the cache. */
INLINE void transform(Transform *t, const int forth) {
    const Axis *rows = &t->rows, *columns = &t->columns;
    const int64_t line = 2 * columns->frequencies * PLANES;
    float *lines = t->memory + t->team.thread() * t->own, *row = lines + rows->count * line;
    Halves h = halves_at(row + columns->count * PLANES, t->room);
    const int64_t blocks = (t->inner * t->outer + PLANES - 1) / PLANES;
    for (int64_t block; (block = next_task(&t->team, blocks)) >= 0;) {
        const int64_t lane = block * PLANES;
        Group groups[VECTORS];
        for (int i = 0; i < VECTORS; i++)
            groups[i] = group_at(t, lane + i * LANES);
        for (int64_t f = 0; !forth && f < columns->frequencies; f++)
            column_back(t, t->spectrum + lane, f, &h, lines);
        for (int64_t y = 0; y < rows->count; y++) {
            float *here = lines + y * line;
            if (forth) {
                for (int i = 0; i < VECTORS; i++)
                    row_of_planes(groups + i, y * columns->count, columns->count, row + i * LANES);
                sums_of_samples(columns, row, PLANES, &h, 0, here, here + 3 * PLANES, 2 * PLANES);
            } else {
                samples_of_half(columns, here, here + 3 * PLANES, 2 * PLANES, &h, row, PLANES);
                for (int i = 0; i < VECTORS; i++)
                    planes_of_row(groups + i, y * columns->count, columns->count, row + i * LANES);
            }
        }
        for (int64_t f = 0; forth && f < columns->frequencies; f++)
            column_forth(t, lines, f, &h, t->spectrum + lane);
    }
    _mm_sfence(); /* what was put is there before other threads go on */
}

void to_spectra(void *work) {
    transform(work, 1);
}

void to_planes(void *work) {
    transform(work, 0);
}

/* By frequencies: sum[row][column] of a[row][term], or its conjugate, with b[term][column]; real
 * and imaginary parts are `part` apart, frequencies twice as far. By three real products: the parts
 * of (x + iy)(u + iv) are x(u+v) - (x+y)v and x(u+v) + (y-x)u. Rows of b, sums: whole vectors. */
typedef struct {
    const float *a, *b;
    float *sum;
    int64_t rows, terms, columns, frequencies;
    int64_t a_part, a_size, by_row, by_term; /* of a, which has as many numbers */
    int64_t b_part, b_apart;                 /* rows of b; of b turned round: */
    int64_t turned, conjugated;              /* b; a */
    int64_t sum_part, sum_apart;
    Team team;
    float *memory; /* of each thread `own` numbers */
    int64_t own;
} Product;

/* rows x LANES complex sums. */
INLINE void complex_rows(const int rows, const Product *p, const float *a, const float *b,
                         float *re, float *im) {
    const int64_t by_row = p->by_row, by_term = p->by_term, terms = p->terms;
    const float *second = a + p->a_size, *third = second + p->a_size;
    Vector sums[ROWS][3];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        sums[i][0] = sums[i][1] = sums[i][2] = none();
    for (int64_t k = 0; k < terms; k++) {
        const Vector b1 = load(b), b2 = load(b + LANES), b3 = load(b + 2 * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            sums[i][0] = fma_of(all_of(a[i * by_row]), b1, sums[i][0]);
            sums[i][1] = fma_of(all_of(second[i * by_row]), b2, sums[i][1]);
            sums[i][2] = fma_of(all_of(third[i * by_row]), b3, sums[i][2]);
        }
        a += by_term, second += by_term, third += by_term, b += 3 * LANES;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        put_line(re + i * p->sum_apart, subtract(sums[i][0], sums[i][1]));
        put_line(im + i * p->sum_apart, add(sums[i][0], sums[i][2]));
    }
}

/* Of a: x, x+y, y-x, one behind the other. */
static void factors_of_a(const Product *p, const float *a, float *to) {
    const int64_t size = p->a_size;
    for (int64_t i = 0; i < size; i += LANES) {
        const Vector x = load(a + i), given = load(a + p->a_part + i);
        const Vector y = p->conjugated ? subtract(none(), given) : given;
        store(to + i, x);
        store(to + size + i, add(x, y));
        store(to + 2 * size + i, subtract(y, x));
    }
}

/* Of LANES columns of b from `column` on: u+v, v, u, side by side. */
static void factors_of_b(const Product *p, const float *b, int64_t column, float *to) {
    const int64_t left = p->columns - column, apart = p->b_apart;
    for (int64_t k = 0; !p->turned && k < p->terms; k++, to += 3 * LANES) {
        const float *from = b + k * apart + column;
        const Vector u = load(from), v = load(from + p->b_part);
        store(to, add(u, v));
        store(to + LANES, v);
        store(to + 2 * LANES, u);
    }
    for (int64_t k = 0; p->turned && k < p->terms; k += LANES, to += 3 * LANES * LANES)
        for (int part = 0; part < 2; part++) {
            const float *from = b + part * p->b_part + column * apart + k;
            Vector v[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                v[i] = i < left ? load(from + i * apart) : none();
            turn(v);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                store(to + (3 * i + 2 - part) * LANES, v[i]);
                if (part)
                    store(to + 3 * i * LANES, add(v[i], load(to + (3 * i + 2) * LANES)));
            }
        }
}

/* One of `shares` parts of `count` numbers comes near. */
INLINE void fetch(const float *from, int64_t count, int64_t share, int64_t shares) {
    const int64_t end = count * (share + 1) / shares;
    for (int64_t i = count * share / shares; i < end; i += PLANES)
        __builtin_prefetch(from + i, 0, 2); /* not into the first cache, which is full */
}

/* LANES columns; meanwhile a of the next frequency comes near. */
static void some_columns(const Product *p, const float *a, const float *b, float *sum,
                         const float *next) {
    const int64_t blocks = (p->rows + ROWS - 1) / ROWS;
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t row = i * p->rows / blocks;
        float *re = sum + row * p->sum_apart;
        if (next)
            fetch(next, p->a_part + p->a_size, i, blocks);
#define COMPLEX(rows) complex_rows(rows, p, a + row * p->by_row, b, re, re + p->sum_part)
        switch ((i + 1) * p->rows / blocks - row) { UP_TO_ROWS(COMPLEX) }
    }
}

void products(void *work) {
    const Product *p = work;
    float *a = p->memory + p->team.thread() * p->own, *b = a + 3 * p->a_size;
    int64_t f = next_task(&p->team, p->frequencies);
    while (f >= 0) {
        const int64_t next = next_task(&p->team, p->frequencies);
        const float *soon = next < 0 ? NULL : p->a + 2 * next * p->a_part;
        factors_of_a(p, p->a + 2 * f * p->a_part, a);
        for (int64_t column = 0; column < p->columns; column += LANES, soon = NULL) {
            factors_of_b(p, p->b + 2 * f * p->b_part, column, b);
            some_columns(p, a, b, p->sum + 2 * f * p->sum_part + column, soon);
        }
        f = next;
    }
    _mm_sfence();
}
