/*
 * mark_times.c - goals P19 and P20: queries to the marks of the index beside equal queries to a red-black tree.
 *
 *   mark_times <pages> <stride>
 *
 * `pages` pages, one in `stride`, under write-back; glibc's tsearch(3) keeps the same numbers. Two jobs, interleaved
 * for 15 rounds, medians printed in nanoseconds: "is anything in flight in this MiB?" at random places, each chosen by
 * the answer before (so that queries cannot overlap), and a walk over all pages in flight. Release flags.
 */
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "io/io.h"

enum { PAGE = 4096, MIB_PAGES = 256, ROUNDS = 15, QUESTIONS = 20000 };

struct range {
	u64 from, to;
};

static u64 now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

/* Keys are ranges; a page is a range of one. Equal: they meet. */
static int by_range(const void *a, const void *b)
{
	const struct range *x = a, *y = b;
	return x->to <= y->from ? -1 : x->from >= y->to ? 1 : 0;
}

static u64 walked, sum;

static void visit(const void *node, VISIT which, int depth)
{
	(void)depth;
	if (which == postorder || which == leaf) {
		walked++;
		sum += (*(const struct range *const *)node)->from;
	}
}

static int by_number(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;
	return x < y ? -1 : x > y;
}

static double median(u64 *values)
{
	qsort(values, ROUNDS, sizeof(*values), by_number);
	return (double)values[ROUNDS / 2];
}

static u64 ask_index(struct pc_inode *i, u64 span)
{
	u64 x = 88172645463325252ull, found = 0, start = now();
	for (u32 k = 0; k < QUESTIONS; k++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		u64 at = (x + found) % span / MIB_PAGES * MIB_PAGES;
		found = pc_index_next_marked(i, at, at + MIB_PAGES, PC_MARK_WRITEBACK, NULL) != 0;
		sum += found;
	}
	return now() - start;
}

static u64 ask_tree(void *const *root, u64 span)
{
	u64 x = 88172645463325252ull, found = 0, start = now();
	for (u32 k = 0; k < QUESTIONS; k++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		u64 at = (x + found) % span / MIB_PAGES * MIB_PAGES;
		struct range key = {at, at + MIB_PAGES};
		found = tfind(&key, root, by_range) != NULL;
		sum += found;
	}
	return now() - start;
}

static u64 walk_index(struct pc_inode *i)
{
	u64 start = now(), last = UINT64_MAX >> 12, index = 0;
	u32 ids[64];
	for (u32 n; (n = pc_index_collect(i, index, last, PC_MARK_WRITEBACK, ids, 64));) {
		for (u32 k = 0; k < n; k++)
			sum += ids[k];
		index = pc_folio_index(pc_folio_at(i->cache, ids[n - 1])) + 1;
	}
	return now() - start;
}

static u64 walk_tree(void *root)
{
	u64 start = now();
	twalk(root, visit);
	return now() - start;
}

int main(int argc, char **argv)
{
	u64 pages = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000, stride = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	struct pc_limits l = {.max_read = 1 << 20, .max_write = 1 << 20, .max_vectors = 64};
	struct pc_cache *c;
	struct pc_volume *v;
	struct pc_inode *i;
	void *root = NULL;
	u64 times[4][ROUNDS], span = pages * stride;
	struct range *keys = malloc(pages * sizeof(*keys));
	u64 *order = malloc(pages * sizeof(*order));
	if (!keys || !order || pc_cache_create((pages + 64) * PAGE, PAGE, PAGE, &c) || pc_volume_create(c, 4, &v) ||
	    pc_inode_create(v, span * PAGE, &l, true, &i))
		return 1;
	for (u64 k = 0; k < pages; k++)
		order[k] = k;
	for (u64 k = pages, x = 7; k > 1; k--) { /* aged: neither side is built in ascending order */
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		u64 j = (x >> 33) % k, t = order[k - 1];
		order[k - 1] = order[j];
		order[j] = t;
	}
	for (u64 k = 0; k < pages; k++) {
		struct pc_folio *f;
		u64 index = order[k] * stride;
		if (pc_folio_create(i, index, 0, 0, 0, &f))
			return 1;
		pc_index_mark(i, index, 0, PC_MARK_WRITEBACK, true);
		pc_folio_unlock(c, f);
		keys[k] = (struct range){index, index + 1};
		if (!tsearch(&keys[k], &root, by_range))
			return 1;
	}
	for (u32 r = 0; r < ROUNDS; r++) {
		bool swap = r % 2;
		if (swap)
			times[1][r] = ask_tree(&root, span);
		times[0][r] = ask_index(i, span);
		if (!swap)
			times[1][r] = ask_tree(&root, span);
		if (swap)
			times[3][r] = walk_tree(root);
		times[2][r] = walk_index(i);
		if (!swap)
			times[3][r] = walk_tree(root);
	}
	printf("{\"ask_index\": %.2f, \"ask_tree\": %.2f, \"walk_index\": %.3f, \"walk_tree\": %.3f}\n",
	       median(times[0]) / QUESTIONS, median(times[1]) / QUESTIONS, median(times[2]) / (double)pages,
	       median(times[3]) / (double)pages);
	return walked != pages * ROUNDS || sum == 0;
}
