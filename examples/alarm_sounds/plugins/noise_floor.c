/* The operation NoiseFloor of domain `enginegate.examples`, as a library of custom operations for ONNX Runtime.
 *
 * ONNX Runtime's wheel has no C headers, so the little of its C API that is used is declared here. That API is a table
 * of functions to which each release adds at the end alone, so a place in it stays; 17 is the version of release 1.17.
 */
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef const void *Status; /* NULL is success */
typedef const void *const *Api;

typedef struct {
    Api (*get_api)(uint32_t version);
    const char *(*get_version)(void);
} ApiBase;

typedef struct CustomOp CustomOp;
typedef int Ask(const CustomOp *);
typedef int AskOf(const CustomOp *, size_t index);
struct CustomOp {
    uint32_t version;
    void *create_kernel_v1;
    const char *(*get_name)(const CustomOp *);
    const char *(*get_provider)(const CustomOp *);
    AskOf *get_input_type;
    size_t (*count_inputs)(const CustomOp *);
    AskOf *get_output_type;
    size_t (*count_outputs)(const CustomOp *);
    void *compute_v1;
    void (*destroy)(void *kernel);
    AskOf *get_input_need, *get_output_need, *get_input_memory;
    Ask *variadic_inputs, *like_inputs, *variadic_outputs, *like_outputs;
    Status (*create_kernel)(const CustomOp *, Api, const void *info, void **kernel);
    Status (*compute)(void *kernel, void *context);
    void *infer_shape;
    Ask *get_first_version, *get_last_version;
    void *aliases[4];
};

enum { API_VERSION = 17, FLOAT = 1, MOST_AXES = 8, INVALID = 2 };
enum { /* places in the table */
    CREATE_STATUS = 0,
    CREATE_DOMAIN = 26,
    DOMAIN_ADD = 27,
    ADD_DOMAIN = 28,
    TENSOR_DATA = 51,
    COUNT_AXES = 61,
    GET_AXES = 62,
    TENSOR_SHAPE = 65,
    ATTRIBUTE_FLOAT = 85,
    GET_INPUT = 90,
    GET_OUTPUT = 91,
    RELEASE_SHAPE = 99,
};

#define CALL(api, place, ...) ((Status(*)())(api)[place])(__VA_ARGS__)
#define TRY(call)                      \
    do {                               \
        Status failed = (call);        \
        if (failed) return failed;     \
    } while (0)

typedef struct {
    Api api;
    float rise, fall;
} Kernel;

static Status create_kernel(const CustomOp *op, Api api, const void *info, void **made) {
    (void)op;
    float rise, fall;
    TRY(CALL(api, ATTRIBUTE_FLOAT, info, "rise", &rise));
    TRY(CALL(api, ATTRIBUTE_FLOAT, info, "fall", &fall));
    Kernel *kernel = *made = malloc(sizeof *kernel);
    if (!kernel) return CALL(api, CREATE_STATUS, INVALID, "NoiseFloor: out of memory");
    *kernel = (Kernel){api, rise, fall};
    return NULL;
}

/* The floor of one row of `frames` energies: it begins at the first, and goes a share of the way to each that comes. */
static void follow(const float *energies, float *floor, int64_t frames, float rise, float fall) {
    float level = frames ? energies[0] : 0;
    for (int64_t frame = 0; frame < frames; frame++) {
        float apart = energies[frame] - level;
        level += (apart > 0 ? rise : fall) * apart;
        floor[frame] = level;
    }
}

static Status compute(void *raw, void *context) {
    const Kernel *kernel = raw;
    Api api = kernel->api;
    const void *energies;
    void *shape, *floor;
    size_t axes;
    int64_t extents[MOST_AXES], rows = 1;
    float *from, *to;
    TRY(CALL(api, GET_INPUT, context, (size_t)0, &energies));
    TRY(CALL(api, TENSOR_SHAPE, energies, &shape));
    TRY(CALL(api, COUNT_AXES, shape, &axes));
    if (!axes || axes > MOST_AXES) return CALL(api, CREATE_STATUS, INVALID, "NoiseFloor takes 1 to 8 axes");
    TRY(CALL(api, GET_AXES, shape, extents, axes));
    ((void (*)())api[RELEASE_SHAPE])(shape);
    TRY(CALL(api, GET_OUTPUT, context, (size_t)0, extents, axes, &floor));
    TRY(CALL(api, TENSOR_DATA, energies, &from));
    TRY(CALL(api, TENSOR_DATA, floor, &to));
    int64_t frames = extents[axes - 1];
    for (size_t axis = 0; axis + 1 < axes; axis++) rows *= extents[axis];
    for (int64_t row = 0; row < rows; row++)
        follow(from + row * frames, to + row * frames, frames, kernel->rise, kernel->fall);
    return NULL;
}

static const char *get_name(const CustomOp *op) { return (void)op, "NoiseFloor"; }
static const char *get_provider(const CustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static int get_type(const CustomOp *op, size_t index) { return (void)op, (void)index, FLOAT; }
static int usual(const CustomOp *op, size_t index) { return (void)op, (void)index, 0; }
static size_t count(const CustomOp *op) { return (void)op, 1; }
static int one(const CustomOp *op) { return (void)op, 1; }
static int last(const CustomOp *op) { return (void)op, INT_MAX; }

static const CustomOp NOISE_FLOOR = {
    .version = API_VERSION,
    .get_name = get_name,
    .get_provider = get_provider,
    .get_input_type = get_type,
    .count_inputs = count,
    .get_output_type = get_type,
    .count_outputs = count,
    .destroy = free,
    .get_input_need = usual,
    .get_output_need = usual,
    .get_input_memory = usual,
    .variadic_inputs = one,
    .like_inputs = one,
    .variadic_outputs = one,
    .like_outputs = one,
    .create_kernel = create_kernel,
    .compute = compute,
    .get_first_version = one,
    .get_last_version = last,
};

/* ONNX Runtime calls this for each session. The domain must live as long as any, and is small: it is not released. */
Status RegisterCustomOps(void *options, const ApiBase *base) {
    static void *domain;
    Api api = base->get_api(API_VERSION);
    if (!domain) {
        TRY(CALL(api, CREATE_DOMAIN, "enginegate.examples", &domain));
        TRY(CALL(api, DOMAIN_ADD, domain, &NOISE_FLOOR));
    }
    return CALL(api, ADD_DOMAIN, options, domain);
}
