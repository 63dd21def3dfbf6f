// Runs CUDA kernels on the CPU as the hardware would: every thread of every block of the grid, the 32 lanes of a warp as
// fibers that meet at each shuffle.  A shuffle that a lane does not reach is an error (on a device: undefined).
// Put it before the CUDA source; needs C++17 and <ucontext.h> (Linux, macOS).
#pragma once
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
using std::erf;
using std::exp;
using std::isinf;
using std::sqrt;
using std::tanh;

struct Index3 {
    unsigned x, y, z;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

const int LANES = 32;
const size_t STACK = 1 << 16;

struct Lane {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    bool done = true;
    long met = 0;  // shuffles so far
};
static Lane lanes[LANES];
static ucontext_t scheduler;
static int current;
static char exchange[2][LANES][16];
static std::string failure;
static void (*body)(void**);
static void** arguments;

template <class T> T shuffle(T v, int source) {
    long mine = ++lanes[current].met;
    std::memcpy(exchange[mine % 2][current], &v, sizeof v);
    int me = current;
    swapcontext(&lanes[me].context, &scheduler);
    for (Lane& lane : lanes)
        if (lane.met < mine) failure = "a lane of the warp did not reach the shuffle";
    T got;
    std::memcpy(&got, exchange[mine % 2][source], sizeof got);
    return got;
}

static void enter() {
    body(arguments);
    lanes[current].done = true;
}

static void run_warp(unsigned first, unsigned count) {
    for (unsigned i = 0; i < LANES; i++) {
        Lane& lane = lanes[i];
        lane.met = 0;
        lane.done = i >= count;
        if (lane.done) continue;
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack.data();
        lane.context.uc_stack.ss_size = lane.stack.size();
        lane.context.uc_link = &scheduler;
        makecontext(&lane.context, enter, 0);
    }
    for (bool busy = true; busy;) {
        busy = false;
        for (current = 0; current < LANES; current++) {
            if (lanes[current].done) continue;
            threadIdx = {first + current, 0, 0};
            swapcontext(&scheduler, &lanes[current].context);
            busy = busy || !lanes[current].done;
        }
    }
}

static void run(void (*kernel)(void**), void** args, Index3 blocks, unsigned threads) {
    body = kernel;
    arguments = args;
    gridDim = blocks;
    blockDim = {threads, 1, 1};
    for (unsigned y = 0; y < blocks.y; y++)
        for (unsigned x = 0; x < blocks.x; x++) {
            blockIdx = {x, y, 0};
            for (unsigned t = 0; t < threads; t += LANES) run_warp(t, threads - t < LANES ? threads - t : LANES);
        }
}

// "const float*" -> "rf", "float*" -> "wf", long long -> "l": what the caller must hand over.
template <class A> std::string letter() {
    if constexpr (std::is_pointer_v<A>) {
        using P = std::remove_pointer_t<A>;
        return (std::is_const_v<P> ? "r" : "w") + letter<std::remove_const_t<P>>();
    } else if constexpr (std::is_same_v<A, float>) {
        return "f";
    } else if constexpr (std::is_same_v<A, double>) {
        return "d";
    } else if constexpr (std::is_same_v<A, long long>) {
        return "l";
    } else if constexpr (std::is_same_v<A, int>) {
        return "i";
    } else if constexpr (std::is_same_v<A, unsigned char>) {
        return "u";
    } else {
        static_assert(std::is_same_v<A, bool>, "a kernel takes pointers, long long, float and double");
        return "b";
    }
}

template <auto K> struct Kernel;
template <class... A, void (*K)(A...)> struct Kernel<K> {
    template <size_t... I> static void spread(void** args, std::index_sequence<I...>) {
        K(*static_cast<A*>(args[I])...);
    }
    static void call(void** args) { spread(args, std::index_sequence_for<A...>{}); }
    static std::string signature() { return (std::string() + ... + (letter<A>() + ",")); }
};

struct Entry {
    void (*call)(void**);
    std::string signature;
};
#define ENTRY(...) shim::Entry{&shim::Kernel<&__VA_ARGS__>::call, shim::Kernel<&__VA_ARGS__>::signature()}

}  // namespace shim

template <class T> T __shfl_xor_sync(unsigned, T v, int step) { return shim::shuffle(v, shim::current ^ step); }
