/*
 * names.c - the nodes that the kernel refers to: lookup count, names and attributes of each.
 *
 *   entry (directory, name) ──> node number ── lookups    lookup count: replies to the kernel minus forgets
 *                                    │         by table   part of it: replies from this table, not in Python's count
 *                                    └── open files: size and times of bytes being written
 *
 * One equation: lookups = count of Python's table + by table + counts in transit between the two. A forget is
 * subtracted from `by table` first, the remainder by Python. At lookups = 0 node and entries are removed before Python
 * learns of the forget, so a node that Python is about to forget is never returned from here.
 *
 * Attributes and entries are returned from here only while the kernel itself may cache them (entry_ns, attr_ns from the
 * time of the request), with the remaining time. So programs see nothing older than on a mount without this table. Size
 * and times of open files come from CORE and from writes that were answered here.
 *
 * Changes made through this mount: from queueing a change until its call ends, nothing that it touches is answered from
 * here, and an answer to a request that began before that end is not stored. `tick` counts beginnings and ends of
 * changes; an answer has the tick of its request.
 *
 *   of one node     setattr, xattrs, flush, fsync, release, open that truncates     node->changing, node->changed
 *   of names        create, mkdir, rename, unlink, ...                              names_changing, names_changed
 *   and more: attributes of each node that lost or got a name                       attributes_void
 */
#include <sys/stat.h>

#include "nodes.h"

/* ---------------------------------------------------------------- attributes; `names` held */

static struct timespec timespec_of(i64 ns)
{
	i64 seconds = ns / 1000000000, nanoseconds = ns % 1000000000;
	if (nanoseconds < 0) {
		seconds--;
		nanoseconds += 1000000000;
	}
	return (struct timespec){seconds, nanoseconds};
}

static i64 ns_of(const struct timespec *t)
{
	return (i64)t->tv_sec * 1000000000 + t->tv_nsec;
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

static void stat_of(const struct pc_attributes *a, struct stat *out)
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
	stat_of(&n->attributes, out);
	i64 written = 0;
	bool sized = false;
	for (struct pc_opened *o = n->opened; o; o = o->next) {
		i64 at = atomic_load_explicit(&o->written_ns, memory_order_relaxed);
		written = at > written ? at : written;
		if (o->hit && !sized) {
			out->st_size = (off_t)l->calls->length(o->hit);
			out->st_blocks = blocks_now(&n->attributes, (u64)out->st_size, l->calls->taken(o->hit));
			sized = true;
		}
	}
	if (written > ns_of(&out->st_mtim))
		out->st_mtim = timespec_of(written);
	if (written > ns_of(&out->st_ctim))
		out->st_ctim = timespec_of(written);
}

static bool is_right(const struct pc_loop *l, const struct node *n, i64 now)
{
	return now < n->until_ns && !n->changing && n->seen_tick >= l->attributes_void;
}

/* Whether an answer to a request made at `tick` is still valid. */
static bool is_fresh(const struct pc_loop *l, const struct node *n, u64 tick)
{
	return !l->names_changing && !n->changing && tick >= l->names_changed && tick >= n->changed &&
	       tick >= l->forgotten_changed;
}

static void see(struct pc_loop *l, struct node *n, const struct pc_attributes *a, u64 tick, i64 since_ns)
{
	n->attributes = *a;
	n->seen = true;
	n->seen_tick = tick;
	n->until_ns = is_fresh(l, n, tick) ? since_ns + l->options.attr_ns : 0;
}

/* ---------------------------------------------------------------- cached answers */

/**
 * pc_known_attributes() - return attributes of a node without a handler.
 * @old_too: return the last known ones even if they are out of date.
 * @timeout: receives how many seconds the kernel may cache them.
 */
bool pc_known_attributes(struct pc_loop *l, u64 number, bool old_too, struct stat *out, double *timeout)
{
	i64 now = now_ns(CLOCK_MONOTONIC);
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_of(l, number);
	bool known = n && n->seen && (old_too || is_right(l, n, now));
	if (known) {
		current(l, n, out);
		*timeout = (double)(old_too ? l->options.attr_ns : n->until_ns - now) / 1e9;
	}
	pthread_mutex_unlock(&l->names);
	return known;
}

/* Whether the node is open and its attributes were returned once, so that the last known ones can stand in for a late
 * answer. */
bool pc_known_open(struct pc_loop *l, u64 number)
{
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_of(l, number);
	bool open = n && n->seen && n->opened;
	pthread_mutex_unlock(&l->names);
	return open;
}

/* Look up a name with valid node and attributes, and count the reply. If the reply is not delivered, call
 * pc_lookup_undo(). */
bool pc_known_entry(struct pc_loop *l, u64 parent, const char *name, struct fuse_entry_param *out)
{
	i64 now = now_ns(CLOCK_MONOTONIC);
	u64 hash = pc_entry_hash(parent, name);
	pthread_mutex_lock(&l->names);
	struct name *e = *pc_entry_at(l, parent, name, hash);
	bool known = e && now < e->until_ns && !l->names_changing && is_right(l, e->node, now);
	if (known) {
		*out = (struct fuse_entry_param){.ino = e->node->number};
		current(l, e->node, &out->attr);
		out->attr_timeout = (double)(e->node->until_ns - now) / 1e9;
		out->entry_timeout = (double)(e->until_ns - now) / 1e9;
		e->node->lookups++;
		e->node->by_table++;
	}
	pthread_mutex_unlock(&l->names);
	return known;
}

/* ---------------------------------------------------------------- lookup counts */

/**
 * pc_lookup_add() - count the reply of a handler with a node; Python's table has already counted it.
 * @name: in `parent`, to be cached; NULL: not cached.
 *
 * Return: 0; -ENOMEM.
 */
int pc_lookup_add(struct pc_loop *l, u64 parent, const char *name, const struct pc_attributes *a, u64 tick,
		  i64 since_ns, struct fuse_entry_param *out)
{
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_make(l, a->number);
	if (n) {
		n->lookups++;
		see(l, n, a, tick, since_ns);
		if (name && is_fresh(l, n, tick))
			pc_entry_set(l, parent, name, n, since_ns + l->options.entry_ns);
	}
	pthread_mutex_unlock(&l->names);
	if (!n)
		return -ENOMEM;
	*out = (struct fuse_entry_param){.ino = a->number};
	stat_of(a, &out->attr);
	out->attr_timeout = (double)l->options.attr_ns / 1e9;
	out->entry_timeout = (double)l->options.entry_ns / 1e9;
	return 0;
}

/* Undo the count of a reply that was not delivered. @by_table: of pc_known_entry(). */
void pc_lookup_undo(struct pc_loop *l, u64 number, bool by_table)
{
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_of(l, number);
	if (n && n->lookups) {
		n->lookups--;
		n->by_table -= by_table && n->by_table;
		pc_node_settle(l, n);
	}
	pthread_mutex_unlock(&l->names);
}

/* Store the answer to getattr or setattr. */
void pc_attributes_seen(struct pc_loop *l, const struct pc_attributes *a, u64 tick, i64 since_ns, struct stat *out)
{
	stat_of(a, out);
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_of(l, a->number);
	if (n)
		see(l, n, a, tick, since_ns);
	pthread_mutex_unlock(&l->names);
}

/* Subtract forgets of the kernel. Return: how many of them Python's table must subtract. */
u64 pc_forgotten(struct pc_loop *l, u64 number, u64 times)
{
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_of(l, number);
	if (n) {
		n->lookups -= times < n->lookups ? times : n->lookups;
		u64 own = times < n->by_table ? times : n->by_table;
		n->by_table -= own;
		times -= own;
		pc_node_settle(l, n);
	}
	pthread_mutex_unlock(&l->names);
	return times;
}

/* ---------------------------------------------------------------- changes */

u64 pc_tick_now(struct pc_loop *l)
{
	pthread_mutex_lock(&l->names);
	u64 tick = l->tick;
	pthread_mutex_unlock(&l->names);
	return tick;
}

/* `names` held. */
static void entry_gone(struct pc_loop *l, u64 parent, const char *name)
{
	struct name **at = pc_entry_at(l, parent, name, pc_entry_hash(parent, name));
	if (*at)
		pc_entry_drop(l, at);
	struct node *directory = pc_node_of(l, parent);
	if (directory)
		directory->until_ns = 0;
}

/* `names` held. */
static void change(struct pc_loop *l, const struct slot *s, int running)
{
	const struct pc_fuse_request *a = &s->request;
	l->tick++;
	if (s->changes & CHANGES_NODE) {
		struct node *n = running > 0 ? pc_node_make(l, a->number) : pc_node_of(l, a->number);
		if (n) {
			n->changing += (u32)running;
			n->changed = l->tick;
			n->until_ns = 0;
			if (running < 0)
				pc_node_settle(l, n);
		}
	}
	if (s->changes & CHANGES_NAMES) {
		l->names_changing += (u32)running;
		l->names_changed = l->tick;
		if (running > 0) { /* none can be added until the change ends */
			u64 second = a->op == PC_FUSE_RENAME || a->op == PC_FUSE_LINK ? a->number2 : 0;
			if (a->op != PC_FUSE_LINK)
				entry_gone(l, a->number, a->name);
			if (second)
				entry_gone(l, second, a->name2);
		}
	}
	if (s->changes & CHANGES_ATTRIBUTES)
		l->attributes_void = l->tick;
}

void pc_change_begin(struct pc_loop *l, const struct slot *s)
{
	if (!s->changes)
		return;
	pthread_mutex_lock(&l->names);
	change(l, s, 1);
	pthread_mutex_unlock(&l->names);
}

void pc_change_end(struct pc_loop *l, const struct slot *s)
{
	if (!s->changes)
		return;
	pthread_mutex_lock(&l->names);
	change(l, s, -1);
	pthread_mutex_unlock(&l->names);
}

/* Another client has changed the node. */
void pc_node_changed(struct pc_loop *l, u64 number)
{
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_of(l, number);
	l->tick++;
	if (n) {
		n->changed = l->tick;
		n->until_ns = 0;
	}
	pthread_mutex_unlock(&l->names);
}

/* Another client has changed the entry: lookups of this name that are in flight are not cached. */
void pc_entry_changed(struct pc_loop *l, u64 parent, const char *name)
{
	pthread_mutex_lock(&l->names);
	l->names_changed = ++l->tick;
	entry_gone(l, parent, name);
	pthread_mutex_unlock(&l->names);
}

/* ---------------------------------------------------------------- open files */

void pc_node_opened(struct pc_loop *l, struct pc_opened *o)
{
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_make(l, o->number);
	if (n) {
		o->next = n->opened;
		n->opened = o;
	}
	pthread_mutex_unlock(&l->names);
}

void pc_node_closed(struct pc_loop *l, struct pc_opened *o)
{
	pthread_mutex_lock(&l->names);
	struct node *n = pc_node_of(l, o->number);
	struct pc_opened **at = n ? &n->opened : NULL;
	while (at && *at && *at != o)
		at = &(*at)->next;
	if (at && *at) {
		*at = o->next;
		pc_node_settle(l, n);
	}
	pthread_mutex_unlock(&l->names);
}
