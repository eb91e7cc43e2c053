/* Convolutions of 3x3 taps by Winograd's F(4x4,3x3), points 0, 1, -1, 1/2, -2 and infinity: 6x6
 * pixels and a kernel become 36 numbers each, whose products over the planes become 4x4 pixels. All
 * steps for a few tiles, while a core's cache holds them; nothing passes from core to core on the
 * way. Pixels first in memory: [height,width,pictures,planes].
 */
#include <stdint.h>

#include "vectors.h"

#define IN 6
#define OUT 4
#define NUMBERS (IN * IN)
#define TILES 32      /* that a thread takes through all steps at once, at most */
#define CHUNK 64      /* tiles between two looks at the slopes' sums */
#define APART LANES   /* numbers between streams, lest all fall into one set of a cache */

typedef struct {
    const float *x;              /* pixels [height,width,pictures,inputs] */
    const float *g;              /* slopes of the result, for those of kernels */
    const float *kernels, *bias; /* numbers [outputs/BLOCK,36,inputs,BLOCK]; bias or NULL */
    float *y;                    /* pixels [height,width,pictures,outputs], or slopes */
    int64_t height, width, pictures, inputs, outputs;
    Team team;
    float *memory; /* `own` numbers of each thread */
    int64_t own;
    int64_t parts; /* of the outputs, for more threads than lines */
} Tiles;

typedef struct {
    const float *taps;
    float *numbers;
    int64_t inputs, outputs;
    int64_t by_output, by_input, by_tap; /* strides of taps */
    Team team;
} Taps;

/* What Python has to know: columns of a block, and the numbers that a thread needs of its own. */
int64_t block_of_planes(void) { return BLOCK; }

int64_t own_of_convolve(int64_t inputs) {
    return NUMBERS * (TILES * (inputs + BLOCK) + 2 * APART);
}

int64_t own_of_slopes(int64_t inputs, int64_t outputs) {
    return IN * (CHUNK * (inputs + outputs) + 2 * APART);
}

static const float PIXELS[IN][IN] = {
    {1, -1.5f, -2, 1.5f, 1, 0},  {0, -1, .5f, 2.5f, 1, 0},   {0, 1, -2.5f, .5f, 1, 0},
    {0, -2, -1, 2, 1, 0},        {0, .5f, -1, -.5f, 1, 0},   {0, 1, -1.5f, -2, 1.5f, 1},
};
static const float RESULT[OUT][IN] = {
    {1, 1, 1, 1, 1, 0}, {0, 1, -1, .5f, -2, 0}, {0, 1, 1, .25f, 4, 0}, {0, 1, -1, .125f, -8, 1},
};
static const float TAPS[IN][3] = {
    {1, 0, 0},
    {1 / 3.f, 1 / 3.f, 1 / 3.f},
    {-1 / 3.f, 1 / 3.f, -1 / 3.f},
    {-16 / 15.f, -8 / 15.f, -4 / 15.f},
    {1 / 15.f, -2 / 15.f, 4 / 15.f},
    {0, 0, 1},
};

/* A sum of vectors with constant factors, `apart` in their table; once unrolled, those that are 0
 * or 1 cost nothing. */
INLINE Vector sum_of(const int count, const Vector *vectors, const float *factors, const int apart) {
    Vector sum = none();
    int found = 0;
#pragma GCC unroll 6
    for (int k = 0; k < count; k++) {
        const float f = factors[k * apart];
        if (f == 0)
            continue;
        if (f == 1)
            sum = found ? (Vector)(sum + vectors[k]) : vectors[k];
        else if (f == -1)
            sum = sum - vectors[k];
        else
            sum = fma_of(vectors[k], all_of(f), sum);
        found = 1;
    }
    return sum;
}

/* Where the picture `n` of a tile `t` begins: rows and columns of tiles, then pictures. */
typedef struct { int64_t row, column, picture; } Place;

INLINE Place place(const Tiles *w, int64_t t) {
    const int64_t columns = w->width / OUT;
    return (Place){t / w->pictures / columns * OUT, t / w->pictures % columns * OUT, t % w->pictures};
}

/* 6x6 vectors of pixels around a tile to its 36 numbers, `apart` from each other. */
INLINE void spread_pixels(const Tiles *w, const float *x, int64_t planes, Place at, float *numbers,
                          int64_t apart) {
    const int64_t across = w->pictures * planes, down = w->width * across;
    Vector lines[IN][IN];
    const float *first = x + (at.row - 1) * down + (at.column - 1) * across + at.picture * planes;
#pragma GCC unroll 6
    for (int j = 0; j < IN; j++) {
        Vector line[IN];
        const int out = (j == 0 && at.column == 0) || (j == IN - 1 && at.column + OUT == w->width);
#pragma GCC unroll 6
        for (int i = 0; i < IN; i++) {
            const int beyond = (i == 0 && at.row == 0) || (i == IN - 1 && at.row + OUT == w->height);
            line[i] = out || beyond ? none() : load(first + i * down + j * across);
        }
#pragma GCC unroll 6
        for (int i = 0; i < IN; i++)
            lines[i][j] = sum_of(IN, line, PIXELS[i], 1);
    }
#pragma GCC unroll 6
    for (int i = 0; i < IN; i++)
#pragma GCC unroll 6
        for (int j = 0; j < IN; j++) {
            const Vector sum = sum_of(IN, lines[i], PIXELS[j], 1);
            store(numbers + (i * IN + j) * apart, sum);
        }
}

/* 36 numbers, `apart`, to the 4x4 pixels of a tile. */
INLINE void collect_pixels(const Tiles *w, const float *numbers, int64_t apart, Vector bias, Place at,
                           float *y) {
    const int64_t across = w->pictures * w->outputs, down = w->width * across;
    Vector lines[OUT][IN];
#pragma GCC unroll 6
    for (int j = 0; j < IN; j++) {
        Vector line[IN];
#pragma GCC unroll 6
        for (int i = 0; i < IN; i++)
            line[i] = load(numbers + (i * IN + j) * apart);
#pragma GCC unroll 4
        for (int i = 0; i < OUT; i++)
            lines[i][j] = sum_of(IN, line, RESULT[i], 1);
    }
    float *first = y + at.row * down + at.column * across + at.picture * w->outputs;
#pragma GCC unroll 4
    for (int i = 0; i < OUT; i++)
#pragma GCC unroll 4
        for (int j = 0; j < OUT; j++) {
            const Vector sum = sum_of(IN, lines[i], RESULT[j], 1);
            store(first + i * down + j * across, sum + bias);
        }
}

static void convolve_tiles(const Tiles *w, int64_t first, int64_t count, float *numbers,
                           float *results) {
    const int64_t inputs = w->inputs, rows = (count + ROWS - 1) / ROWS * ROWS;
    const int64_t apart = TILES * inputs + APART, between = TILES * BLOCK + APART;
    for (int64_t t = 0; t < count; t++) {
        const Place at = place(w, first + t);
        for (int64_t c = 0; c < inputs; c += LANES)
            spread_pixels(w, w->x + c, inputs, at, numbers + t * inputs + c, apart);
    }
    for (int64_t block = 0; block < w->outputs / BLOCK; block++) {
        const float *kernels = w->kernels + block * NUMBERS * inputs * BLOCK;
        for (int i = 0; i < NUMBERS; i++)
            for (int64_t t = 0; t < rows; t += ROWS)
                product(numbers + i * apart + t * inputs, inputs, 1, kernels + i * inputs * BLOCK,
                        inputs, results + i * between + t * BLOCK, BLOCK, 0);
        for (int64_t t = 0; t < count; t++) {
            const Place at = place(w, first + t);
            for (int half = 0; half < BLOCK; half += LANES) {
                const int64_t plane = block * BLOCK + half;
                const Vector bias = w->bias ? load(w->bias + plane) : none();
                collect_pixels(w, results + t * BLOCK + half, between, bias, at, w->y + plane);
            }
        }
    }
}

/* y = x * kernels + bias. */
void convolve(void *work) {
    Tiles *w = work;
    const int64_t tiles = w->height / OUT * (w->width / OUT) * w->pictures;
    /* fewer where there would be none for some threads */
    const int64_t each = (tiles / w->team.threads + ROWS - 1) / ROWS * ROWS;
    const int64_t count = each < ROWS ? ROWS : each < TILES ? each : TILES;
    const int64_t size = NUMBERS * (TILES * w->inputs + APART);
    float *numbers = w->memory + w->team.thread() * w->own;
    for (;;) {
        const int64_t task = next_task(&w->team, (tiles + count - 1) / count);
        if (task < 0)
            return;
        const int64_t first = task * count, left = tiles - first;
        convolve_tiles(w, first, left < count ? left : count, numbers, numbers + size);
    }
}

/* One line of six of the numbers of 6x6 pixels, or of 4x4 slopes: [6,planes/BLOCK,CHUNK,BLOCK]. */
INLINE void spread_line(const Tiles *w, const float *x, int64_t planes, Place at, const Vector *down_by,
                        const int slopes, float *numbers, int64_t apart) {
    const int64_t across = w->pictures * planes, down = w->width * across;
    const int size = slopes ? OUT : IN, before = slopes ? 0 : 1;
    const float *first =
        x + (at.row - before) * down + (at.column - before) * across + at.picture * planes;
    Vector line[IN];
#pragma GCC unroll 6
    for (int j = 0; j < size; j++) {
        line[j] = none();
        if (!slopes && ((j == 0 && at.column == 0) || (j == IN - 1 && at.column + OUT == w->width)))
            continue;
#pragma GCC unroll 6
        for (int i = 0; i < size; i++) {
            if (!slopes && ((i == 0 && at.row == 0) || (i == IN - 1 && at.row + OUT == w->height)))
                continue;
            line[j] = fma_of(load(first + i * down + j * across), down_by[i], line[j]);
        }
    }
#pragma GCC unroll 6
    for (int j = 0; j < IN; j++) {
        Vector sum = none();
        if (slopes)
            sum = sum_of(OUT, line, &RESULT[0][j], IN);
        else
            sum = sum_of(IN, line, PIXELS[j], 1);
        store(numbers + j * apart, sum);
    }
}

INLINE void spread_lines(const Tiles *w, const float *x, int64_t planes, int64_t taken, int64_t first,
                         int64_t count, int row, const int slopes, float *numbers, int64_t apart) {
    Vector down_by[IN];
    for (int i = 0; i < (slopes ? OUT : IN); i++)
        down_by[i] = all_of(slopes ? RESULT[i][row] : PIXELS[row][i]);
    for (int64_t t = 0; t < count; t++) {
        const Place at = place(w, first + t);
        for (int64_t c = 0; c < taken; c += LANES) {
            float *to = numbers + (c / BLOCK * CHUNK + t) * BLOCK + c % BLOCK;
            if (slopes)
                spread_line(w, x + c, planes, at, down_by, 1, to, apart);
            else
                spread_line(w, x + c, planes, at, down_by, 0, to, apart);
        }
    }
}

/* One line of the slopes of kernels' numbers, of some outputs. */
static void slopes_of_line(const Tiles *w, int row, int64_t output, int64_t outputs, float *pixels) {
    const int64_t tiles = w->height / OUT * (w->width / OUT) * w->pictures;
    const int64_t apart = CHUNK * w->inputs + APART, between = CHUNK * outputs + APART;
    float *slopes = pixels + IN * apart;
    for (int64_t first = 0; first < tiles; first += CHUNK) {
        const int64_t left = tiles - first, count = left < CHUNK ? left : CHUNK;
        spread_lines(w, w->x, w->inputs, w->inputs, first, count, row, 0, pixels, apart);
        spread_lines(w, w->g + output, w->outputs, outputs, first, count, row, 1, slopes, between);
        for (int j = 0; j < IN; j++)
            for (int64_t c = 0; c < w->inputs; c += BLOCK)
                for (int64_t k = 0; k < outputs; k += ROWS) {
                    const float *a = slopes + j * between + k / BLOCK * CHUNK * BLOCK + k % BLOCK;
                    const float *b = pixels + j * apart + c * CHUNK;
                    float *sum =
                        w->y + ((row * IN + j) * w->outputs + output + k) * w->inputs + c;
                    if (first)
                        product(a, 1, BLOCK, b, count, sum, w->inputs, 1);
                    else
                        product(a, 1, BLOCK, b, count, sum, w->inputs, 0);
                }
    }
}

/* y = slopes of the numbers of kernels [36,outputs,inputs]. */
void slopes_of_kernels(void *work) {
    Tiles *w = work;
    const int64_t blocks = w->outputs / BLOCK;
    for (;;) {
        const int64_t task = next_task(&w->team, IN * w->parts);
        if (task < 0)
            return;
        const int64_t part = task / IN, first = part * blocks / w->parts;
        const int64_t end = (part + 1) * blocks / w->parts;
        slopes_of_line(w, task % IN, first * BLOCK, (end - first) * BLOCK,
                       w->memory + w->team.thread() * w->own);
    }
}

/* 9 taps of each kernel to its 36 numbers, as `convolve` reads them. */
void numbers_of_taps(void *work) {
    Taps *w = work;
    for (;;) {
        const int64_t task = next_task(&w->team, w->outputs / BLOCK * (w->inputs / LANES));
        if (task < 0)
            return;
        const int64_t block = task / (w->inputs / LANES), from = task % (w->inputs / LANES) * LANES;
        for (int64_t c = from; c < from + LANES; c++)
            for (int half = 0; half < BLOCK; half += LANES) {
                const float *taps = w->taps + (block * BLOCK + half) * w->by_output + c * w->by_input;
                float *to = w->numbers + (block * NUMBERS * w->inputs + c) * BLOCK + half;
                Vector lines[IN][3];
                for (int b = 0; b < 3; b++) {
                    Vector line[3];
                    for (int a = 0; a < 3; a++) {
                        float each[LANES];
                        for (int i = 0; i < LANES; i++)
                            each[i] = taps[i * w->by_output + (3 * a + b) * w->by_tap];
                        line[a] = load(each);
                    }
#pragma GCC unroll 6
                    for (int i = 0; i < IN; i++)
                        lines[i][b] = sum_of(3, line, TAPS[i], 1);
                }
#pragma GCC unroll 6
                for (int i = 0; i < IN; i++)
#pragma GCC unroll 6
                    for (int j = 0; j < IN; j++) {
                        const Vector sum = sum_of(3, lines[i], TAPS[j], 1);
                        store(to + (i * IN + j) * w->inputs * BLOCK, sum);
                    }
            }
    }
}

/* Slopes of the 36 numbers of kernels [36,outputs,inputs] to those of their taps
 * [outputs,inputs,9]. */
void slopes_of_taps(void *work) {
    Taps *w = work;
    const int64_t apart = w->outputs * w->inputs;
    for (;;) {
        const int64_t output = next_task(&w->team, w->outputs);
        if (output < 0)
            return;
        for (int64_t c = 0; c < w->inputs; c += LANES) {
            const float *from = w->taps + output * w->inputs + c;
            float *to = w->numbers + (output * w->inputs + c) * 9;
            Vector lines[3][IN];
#pragma GCC unroll 6
            for (int j = 0; j < IN; j++) {
                Vector line[IN];
#pragma GCC unroll 6
                for (int i = 0; i < IN; i++)
                    line[i] = load(from + (i * IN + j) * apart);
#pragma GCC unroll 3
                for (int a = 0; a < 3; a++)
                    lines[a][j] = sum_of(IN, line, &TAPS[0][a], 3);
            }
#pragma GCC unroll 3
            for (int a = 0; a < 3; a++)
#pragma GCC unroll 3
                for (int b = 0; b < 3; b++) {
                    Vector sum = none();
                    float each[LANES];
                    sum = sum_of(IN, lines[a], &TAPS[0][b], 3);
                    store(each, sum);
                    for (int i = 0; i < LANES; i++)
                        to[i * 9 + 3 * a + b] = each[i];
                }
        }
    }
}
