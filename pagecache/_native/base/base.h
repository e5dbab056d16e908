/*
 * base.h - what base/ offers: words, lists, leaf locks, events, racy copies. No file here uses an object of the cache.
 */
#ifndef PC_BASE_H
#define PC_BASE_H

#include "base/list.h"
#include "base/wait.h"
#include "base/words.h"

/* A copy that races by design: of memory that writers, or programs with a view, may change beside it. */
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline, unused)) static void pc_copy_racy(void *to, const void *from, size_t n)
{
	u8 *t = to;
	const u8 *f = from;
	/* Whole words where memcpy would move them whole: tests tag each one. */
	for (; n >= 8 && ((uintptr_t)t | (uintptr_t)f) % 8 == 0; n -= 8, t += 8, f += 8)
		*(volatile u64 *)(void *)t = *(const volatile u64 *)(const void *)f;
	while (n--)
		*(volatile u8 *)t++ = *(const volatile u8 *)f++;
}
#else
#define pc_copy_racy(to, from, n) memcpy(to, from, n)
#endif

#endif
