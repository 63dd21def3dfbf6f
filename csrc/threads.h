/* How many threads a kernel may use, and what this build can do. */
#ifndef PYMOE_THREADS_H
#define PYMOE_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define PYMOE_HAS_FORK
#endif

/* libgomp hangs in a child of a process whose kernels ran on several threads, so a child computes on one.  The hook
 * sees every fork, also one that Python did not make. */
static volatile int pymoe_forked = 0;

#ifdef PYMOE_HAS_FORK
static void pymoe_in_child(void) { pymoe_forked = 1; }
static int pymoe_watch_forks(void) { return pthread_atfork(NULL, NULL, pymoe_in_child); }
#else
static int pymoe_watch_forks(void) { return 0; }
#endif

static int pymoe_max_threads(void) {
#ifdef _OPENMP
    return pymoe_forked || omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    return 1;
#endif
}

static int pymoe_openmp(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

static const char *pymoe_simd(void) {
#ifdef PYMOE_TARGET_CLONES
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return "x86-64-v4";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return "x86-64-v3";
#endif
    return "baseline";
}

#endif
