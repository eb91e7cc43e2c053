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

/* Of each thread of a team, 0 and up: OpenMP's own, which Python hands over. */
typedef int (*ThreadNumber)(void);

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
