/*
 * attributes.c - open files, and their attributes, which getattr returns without a handler.
 *
 * An open file has the handlers' number, the hit that reads and writes use, and the marks that Python's OpenFile and the
 * workers share. The kernel's file handle is its address. The kernel sends nothing about a file after its release, so
 * the release may end it. The memory lasts until Python frees it.
 *
 * The kernel keeps names and attributes itself. It asks again only for what it has forgotten, and for the attributes of
 * a file that it has just read or written. So this table has the open files alone, by node number: the last attributes
 * that a handler returned, with size and times from CORE and from writes that were answered here.
 *
 * Attributes are returned from here only while the kernel itself may cache them (attr_ns from the time of the request),
 * with the remaining time. So programs see nothing older than on a mount without this table.
 *
 * Changes made through this mount: from queueing a change until its call ends, nothing that it touches is answered from
 * here, and an answer to a request that began before that end is not stored. `tick` counts beginnings and ends of
 * changes; an answer has the tick of its request. A node that is made has the tick of now: its earlier changes are not
 * known.
 *
 *   of one node     setattr, xattrs, flush, fsync, release, open that truncates     node->changing, node->changed
 *   of any node     unlink, rename, link, ...: one loses or gets a name             all_changing, all_changed
 */
#include <stdlib.h>
#include <sys/stat.h>

#include "state.h"

/* ---------------------------------------------------------------- nodes; `nodes_lock` held */

static struct node **bucket_of(struct pc_loop *l, u64 number)
{
	u64 x = (number ^ number >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return &l->nodes[(x ^ x >> 31) % PC_NODES];
}

static struct node *node_of(struct pc_loop *l, u64 number)
{
	struct node *n = *bucket_of(l, number);
	while (n && n->number != number)
		n = n->next;
	return n;
}

static struct node *node_make(struct pc_loop *l, u64 number)
{
	struct node *n = node_of(l, number);
	if (n || !(n = calloc(1, sizeof(*n))))
		return n;
	struct node **bucket = bucket_of(l, number);
	*n = (struct node){.next = *bucket, .number = number, .changed = l->tick};
	*bucket = n;
	l->nr_nodes++;
	return n;
}

/* Remove a node without an open file or running change. */
static void settle(struct pc_loop *l, struct node *n)
{
	if (n->opened || n->changing)
		return;
	struct node **at = bucket_of(l, n->number);
	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	free(n);
	l->nr_nodes--;
}

void pc_nodes_free(struct pc_loop *l)
{
	for (u64 k = 0; k < PC_NODES; k++)
		for (struct node *n = l->nodes[k], *next; n; n = next) {
			next = n->next;
			free(n);
		}
}

/* ---------------------------------------------------------------- attributes; `nodes_lock` held */

static struct timespec timespec_of(i64 ns)
{
	i64 seconds = ns / 1000000000, nanoseconds = ns % 1000000000;
	if (nanoseconds < 0) {
		seconds--;
		nanoseconds += 1000000000;
	}
	return (struct timespec){seconds, nanoseconds};
}

enum { BLOCK = 512, PAGE = 4096 };

static blkcnt_t blocks_of(u64 bytes)
{
	return (blkcnt_t)((bytes + BLOCK - 1) / BLOCK);
}

/* Blocks to report: never fewer than the store will have, since bytes taken later may need new blocks, within whole
 * pages of the file. Programs take a file without blocks for one without data. */
static blkcnt_t blocks_now(const struct pc_attributes *a, u64 size, u64 taken)
{
	if (a->allocated == PC_NOT_KNOWN)
		return blocks_of(size);
	u64 more = taken > a->taken ? taken - a->taken : 0, pages = (size + PAGE - 1) / PAGE * PAGE;
	u64 most = pages > a->allocated ? pages : a->allocated;
	return blocks_of(more < most - a->allocated ? a->allocated + more : most);
}

void pc_stat_of(const struct pc_attributes *a, struct stat *out)
{
	*out = (struct stat){.st_ino = a->number,
			     .st_mode = a->mode,
			     .st_nlink = a->nlink,
			     .st_uid = a->uid,
			     .st_gid = a->gid,
			     .st_rdev = a->rdev,
			     .st_size = (off_t)a->size,
			     .st_blocks = blocks_of(a->allocated == PC_NOT_KNOWN ? a->size : a->allocated),
			     .st_atim = timespec_of(a->atime_ns),
			     .st_mtim = timespec_of(a->mtime_ns),
			     .st_ctim = timespec_of(a->ctime_ns)};
}

/* Attributes of a node, updated from its open files. */
static void current(struct pc_loop *l, const struct node *n, struct stat *out)
{
	pc_stat_of(&n->attributes, out);
	i64 written = 0;
	bool sized = false;
	for (struct pc_opened *o = n->opened; o; o = o->next) {
		i64 at = atomic_load_explicit(&o->marks[PC_WRITTEN_NS], memory_order_relaxed);
		written = at > written ? at : written;
		if (o->hit && !sized) {
			out->st_size = (off_t)l->calls->length(o->hit);
			out->st_blocks = blocks_now(&n->attributes, (u64)out->st_size, l->calls->taken(o->hit));
			sized = true;
		}
	}
	if (written > ns_of(out->st_mtim))
		out->st_mtim = timespec_of(written);
	if (written > ns_of(out->st_ctim))
		out->st_ctim = timespec_of(written);
}

/* Whether CORE has the size of the node: through an open file. */
static bool has_size(const struct node *n)
{
	const struct pc_opened *o = n->opened;
	while (o && !o->hit)
		o = o->next;
	return o != NULL;
}

static bool is_right(const struct pc_loop *l, const struct node *n, i64 now)
{
	return now < n->until_ns && !n->changing && n->seen_tick >= l->all_changed;
}

/* Whether an answer to a request made at `tick` is still valid. */
static bool is_fresh(const struct pc_loop *l, const struct node *n, u64 tick)
{
	return !l->all_changing && !n->changing && tick >= l->all_changed && tick >= n->changed;
}

/* ---------------------------------------------------------------- cached answers */

/* Return attributes of an open file without a handler. @old_too: return the last known ones even if they are out of
 * date, but for the size: the kernel would cut reads off at an old one. Files that are closed since have none. @out,
 * @timeout: receive the attributes, and how many seconds the kernel may cache them; NULL: not wanted. */
bool pc_known_attributes(struct pc_loop *l, u64 number, bool old_too, struct stat *out, double *timeout)
{
	i64 now = now_ns(CLOCK_MONOTONIC);
	pthread_mutex_lock(&l->nodes_lock);
	struct node *n = node_of(l, number);
	bool right = n && is_right(l, n, now), known = n && n->seen && has_size(n) && (old_too || right);
	if (known && out) {
		current(l, n, out);
		*timeout = (double)(right ? n->until_ns - now : l->options.attr_ns) / 1e9;
	}
	pthread_mutex_unlock(&l->nodes_lock);
	return known;
}

/* Store attributes that a handler has returned for a request of tick @tick, which began at @since_ns. */
void pc_attributes_seen(struct pc_loop *l, const struct pc_attributes *a, u64 tick, i64 since_ns)
{
	pthread_mutex_lock(&l->nodes_lock);
	struct node *n = node_of(l, a->number);
	if (n) {
		n->attributes = *a;
		n->seen = true;
		n->seen_tick = tick;
		n->until_ns = is_fresh(l, n, tick) ? since_ns + l->options.attr_ns : 0;
	}
	pthread_mutex_unlock(&l->nodes_lock);
}

/* The last known attributes of a file that is being opened: they are out of date, but can stand in for a late answer. */
void pc_attributes_known(struct pc_loop *l, const struct pc_attributes *a)
{
	pthread_mutex_lock(&l->nodes_lock);
	struct node *n = node_of(l, a->number);
	if (n && !n->seen) {
		n->attributes = *a;
		n->seen = true;
	}
	pthread_mutex_unlock(&l->nodes_lock);
}

/* ---------------------------------------------------------------- changes */

/* A call begins: @running 1, or ends: -1, which may change attributes. Without memory for a node it counts as a change
 * of all. Return: the tick. */
u64 pc_change(struct pc_loop *l, struct slot *s, int running)
{
	struct node *n = NULL;
	pthread_mutex_lock(&l->nodes_lock);
	l->tick += s->changes != 0;
	if (s->changes == CHANGES_NODE) {
		n = running > 0 ? node_make(l, s->request.number) : node_of(l, s->request.number);
		if (!n)
			s->changes = CHANGES_ALL;
	}
	if (n) {
		n->changing += (u32)running;
		n->changed = l->tick;
		n->until_ns = 0;
		settle(l, n);
	} else if (s->changes) {
		l->all_changing += (u32)running;
		l->all_changed = l->tick;
	}
	u64 tick = l->tick;
	pthread_mutex_unlock(&l->nodes_lock);
	return tick;
}

/* Another client has changed the node. */
void pc_node_changed(struct pc_loop *l, u64 number)
{
	pthread_mutex_lock(&l->nodes_lock);
	struct node *n = node_of(l, number);
	l->tick++;
	if (n) {
		n->changed = l->tick;
		n->until_ns = 0;
	}
	pthread_mutex_unlock(&l->nodes_lock);
}

/* ---------------------------------------------------------------- open files */

/* Create an open file that the kernel has no handle for yet. @fh: its number in requests to handlers. Return: NULL: no
 * memory. */
struct pc_opened *pc_opened_new(uint64_t fh)
{
	struct pc_opened *o = calloc(1, sizeof(*o));
	if (o)
		o->fh = fh;
	return o;
}

/* Prepare an open file for the answer to OPEN or CREATE. @number: of its node. @hit: of pc_hit_open(), valid until
 * pc_opened_end(); 0: handlers do all reads and writes. */
void pc_opened_begin(struct pc_loop *l, struct pc_opened *o, uint64_t number, uintptr_t hit)
{
	o->hit = (struct pc_hit *)hit;
	o->number = number;
	pthread_mutex_lock(&l->nodes_lock);
	struct node *n = node_make(l, number);
	if (n) {
		o->next = n->opened;
		n->opened = o;
	}
	pthread_mutex_unlock(&l->nodes_lock);
}

/* End an open file after its release, when its answer was not delivered, or when the loop has stopped. The kernel sends
 * nothing about it. */
void pc_opened_end(struct pc_loop *l, struct pc_opened *o)
{
	pthread_mutex_lock(&l->nodes_lock);
	struct node *n = node_of(l, o->number);
	struct pc_opened **at = n ? &n->opened : NULL;
	while (at && *at && *at != o)
		at = &(*at)->next;
	if (at && *at) {
		*at = o->next;
		settle(l, n);
	}
	pthread_mutex_unlock(&l->nodes_lock);
	o->hit = NULL;
}

void pc_opened_free(struct pc_opened *o)
{
	free(o);
}

int64_t pc_opened_mark(struct pc_opened *o, enum pc_opened_mark mark)
{
	return atomic_load(&o->marks[mark]);
}

/* Return: the value before. */
int64_t pc_opened_set_mark(struct pc_opened *o, enum pc_opened_mark mark, int64_t value)
{
	return atomic_exchange(&o->marks[mark], value);
}

/* Everything written until @written_ns is on the backend; clear the time unless there was a later write. */
void pc_opened_clear_written(struct pc_opened *o, int64_t written_ns)
{
	i64 expected = written_ns;
	atomic_compare_exchange_strong(&o->marks[PC_WRITTEN_NS], &expected, 0);
}
