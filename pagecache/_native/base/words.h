/*
 * words.h - the words that every file of CORE is written in: integer types, branch hints, assertions, sync points.
 */
#ifndef PC_WORDS_H
#define PC_WORDS_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "pagecache.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

#define PC_LIKELY(x)   __builtin_expect(!!(x), 1)
#define PC_UNLIKELY(x) __builtin_expect(!!(x), 0)

static inline u64 pc_min(u64 a, u64 b)
{
	return a < b ? a : b;
}
static inline u64 pc_max(u64 a, u64 b)
{
	return a > b ? a : b;
}

/* wait.c */
void pc_fail_assert(const char *file, int line, const char *text) __attribute__((noreturn, cold));

/* PC_ASSERT guards memory safety and stays on; PC_DEBUG_ASSERT states what the transition table allows. */
#define PC_ASSERT(c) ((void)(PC_LIKELY(c) || (pc_fail_assert(__FILE__, __LINE__, #c), 0)))
#ifdef PC_DEBUG
#define PC_DEBUG_ASSERT(c) PC_ASSERT(c)
#ifdef PC_SCHEDULED
/* Built for tests/native/schedules: threads are simulated, and whatever could let another one run asks the scheduler. */
#include "schedule.h"
#define PC_SYNC(point) schedule_point(point)
#else
void pc_sync_reached(const char *point);
#define PC_SYNC(point) pc_sync_reached(point)
#endif
void pc_debug_lock(int level);
void pc_debug_trylock(int level);
void pc_debug_unlock(int level);
void pc_debug_unlocked(const char *where);
#else
#define PC_DEBUG_ASSERT(c)       ((void)0)
#define PC_SYNC(point)           ((void)0)
#define pc_debug_lock(level)     ((void)0)
#define pc_debug_trylock(level)  ((void)0)
#define pc_debug_unlock(level)   ((void)0)
#define pc_debug_unlocked(where) ((void)0)
#endif

#ifdef PC_SCHEDULED
#define PC_POINT(point) schedule_point(point)
#else
#define PC_POINT(point) ((void)0) /* where another thread may come in between; only simulated ones look */
#endif

/* violation.c: describe a broken invariant in @out; each % of the text, %x in base 16, is the next number. Return: false. */
bool pc_violated_by(struct pc_violation *out, const char *invariant, const char *text, const u64 *numbers, size_t n);
#define pc_violated(out, invariant, text, ...)                                                                         \
	pc_violated_by(out, invariant, text, (const u64[]){__VA_ARGS__},                                               \
		       sizeof((const u64[]){__VA_ARGS__}) / sizeof(u64))

#endif
