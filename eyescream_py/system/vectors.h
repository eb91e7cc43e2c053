/* What loops in C compute with: vectors of this processor, and products of small matrices. */
#ifndef VECTORS_H
#define VECTORS_H

#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
typedef __m512 Vector;
#define LANES 16
#define ROWS 8 /* of a product that are summed in registers at once */
#define load _mm512_loadu_ps
#define store _mm512_storeu_ps
#define all_of _mm512_set1_ps
#define fma_of _mm512_fmadd_ps
#else
typedef __m256 Vector;
#define LANES 8
#define ROWS 4
#define load _mm256_loadu_ps
#define store _mm256_storeu_ps
#define all_of _mm256_set1_ps
#define fma_of _mm256_fmadd_ps
#endif

#define BLOCK (2 * LANES) /* columns of a product, likewise */

/* How a team of threads shares out tasks: each begins with its own share of them, as the operators
 * before and after do with memory, and goes on with what others have left. */
typedef struct {
    int (*thread)(void); /* this one's number, OpenMP's own */
    int64_t threads;
    int64_t *begun; /* tasks of each share, a line of the cache apart */
} Team;

#define LINE 8

/* One of `count` tasks that nobody has begun; -1: there are none. */
INLINE int64_t next_task(const Team *team, int64_t count) {
    const int64_t own = team->thread();
    for (int64_t i = 0; i < team->threads; i++) {
        const int64_t share = (own + i) % team->threads;
        const int64_t first = share * count / team->threads;
        const int64_t end = (share + 1) * count / team->threads;
        int64_t *begun = team->begun + share * LINE;
        if (first + __atomic_load_n(begun, __ATOMIC_RELAXED) >= end)
            continue;
        const int64_t task = first + __atomic_fetch_add(begun, 1, __ATOMIC_RELAXED);
        if (task < end)
            return task;
    }
    return -1;
}

INLINE Vector none(void) { return all_of(0); }

/* ROWS x BLOCK sums of a product over `terms`: of a[row * by_row + term * by_term], and b as rows of
 * BLOCK; `sum`, its rows `apart`, is written over, or added to. */
INLINE void product(const float *a, int64_t by_row, int64_t by_term, const float *b, int64_t terms,
                    float *sum, int64_t apart, const int adds) {
    Vector sums[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
        sums[i][0] = adds ? load(sum + i * apart) : none();
        sums[i][1] = adds ? load(sum + i * apart + LANES) : none();
    }
    for (int64_t k = 0; k < terms; k++, b += BLOCK, a += by_term) {
        const Vector left = load(b), right = load(b + LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            const Vector factor = all_of(a[i * by_row]);
            sums[i][0] = fma_of(factor, left, sums[i][0]);
            sums[i][1] = fma_of(factor, right, sums[i][1]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
        store(sum + i * apart, sums[i][0]);
        store(sum + i * apart + LANES, sums[i][1]);
    }
}

#endif
