/*
 * show.c - what a live view asks for: the states of a file's pages, one number of a file, the lengths of the queues.
 *
 *   pages    |d|d|d|c|c| | |f|f|f|          d dirty, c clean, f filling
 *   runs     [ dirty ][cl]    [fil]         those that meet and have one state are one
 *
 * Nothing here changes anything, and no caller waits for it longer than for any other section under a leaf lock: a walk stops
 * after SLICE_FOLIOS folios or SLICE_BLOCKS pages and says where to go on, so a long file is shown in slices, and what changes between two of
 * them is shown as it was when its slice was taken. Hits take no leaf lock and never notice.
 *
 * The struct of an inode is never unmapped while the cache lives, so a caller may come with one that is gone, or is another file by now:
 * the id says so.
 */
#include "state/state.h"

enum { SLICE_FOLIOS = 64, SLICE_BLOCKS = 1024 };

struct walk {
	uint64_t *out;
	size_t n, used;
};

/* Return: false when there is no room for another run. */
static bool put(struct walk *w, u64 pos, u64 len, u32 state)
{
	uint64_t *last = w->used ? w->out + 3 * (w->used - 1) : NULL;
	if (state == PC_SHOW_NOTHING)
		return true;
	if (last && last[2] == state && last[0] + last[1] == pos) {
		last[1] += len;
		return true;
	}
	if (w->used == w->n)
		return false;
	uint64_t *run = w->out + 3 * w->used++;
	run[0] = pos;
	run[1] = len;
	run[2] = state;
	return true;
}

static bool staged_meets(const struct pc_inode *i, u64 pos, u64 end)
{
	struct pc_range s;
	return pc_staged_bytes(i) && pc_staged_next(i, pos, &s) && s.pos < end;
}

/* The most urgent state that anything in block b has; leaf lock held. */
static u32 block_state(const struct pc_inode *i, const struct pc_folio *f, u32 b)
{
	const struct pc_cache *c = i->cache;
	u32 state = pc_folio_state(f), from = b << c->page_shift, to = from + c->page_size;
	u64 pos = pc_folio_pos(c, f) + from;
	bool filling = state & PC_F_LOCKED &&
		       atomic_load_explicit(&((struct pc_folio *)f)->owner, memory_order_relaxed) &&
		       !pc_valid_covers(c, f, from, to);
	if (state & PC_F_FAILED && pc_set_count(c, f, PC_X, b, b + 1))
		return PC_SHOW_FAILED;
	if (state & PC_F_WRITEBACK && pc_set_count(c, f, PC_W, b, b + 1))
		return PC_SHOW_WRITEBACK;
	if (state & PC_F_DIRTY && pc_set_count(c, f, PC_D, b, b + 1))
		return PC_SHOW_DIRTY;
	if (pc_missing_until(c, f, from, to) == to)
		return filling ? PC_SHOW_FILLING : PC_SHOW_NOTHING;
	if (staged_meets(i, pos, pos + c->page_size))
		return PC_SHOW_STAGED;
	if (state & PC_F_UNSTABLE && pc_set_count(c, f, PC_U, b, b + 1))
		return PC_SHOW_UNSTABLE;
	if (filling)
		return PC_SHOW_FILLING;
	return state & PC_F_PINNED ? PC_SHOW_PINNED : PC_SHOW_CLEAN;
}

/* A folio of which nothing has to be looked at by page; leaf lock held. */
static bool plain(const struct pc_inode *i, const struct pc_folio *f)
{
	u32 state = pc_folio_state(f);
	return state & PC_F_UPTODATE && !(state & (PC_F_LOCAL | PC_F_FAILED)) && !pc_staged_bytes(i);
}

/* Pages [*index, stop) of one folio. Return: false when there is no room, or enough was looked at: go on at *index. */
static bool show_folio(const struct pc_inode *i, const struct pc_folio *f, struct walk *w, u64 *index, u64 stop,
		       u32 *blocks)
{
	const struct pc_cache *c = i->cache;
	if (plain(i, f)) {
		u32 state = pc_folio_state(f) & PC_F_PINNED ? PC_SHOW_PINNED : PC_SHOW_CLEAN;
		if (!put(w, *index << c->page_shift, (stop - *index) << c->page_shift, state))
			return false;
		*index = stop;
	}
	for (; *index < stop; ++*index, ++*blocks) {
		u32 state = block_state(i, f, (u32)(*index - pc_folio_index(f)));
		if (*blocks == SLICE_BLOCKS || !put(w, *index << c->page_shift, c->page_size, state))
			return false;
	}
	return true;
}

/**
 * pc_show_states() - one slice of the states of a file's pages.
 *
 * @id: of the inode that is meant.
 * @pos, @end: whole pages that meet these bytes.
 * @runs: room for n triples (position, bytes, state); uncached pages have none.
 * @out: how many runs, how many folios, and where to go on: `end` when that was all.
 * Context: any thread; takes the leaf lock. Return: false when the inode is gone.
 */
bool pc_show_states(struct pc_inode *i, uint64_t id, uint64_t pos, uint64_t end, uint64_t *runs, size_t n,
		    struct pc_shown *out)
{
	struct pc_cache *c = i->cache;
	struct walk w = {.out = runs, .n = n};
	u64 index = pos >> c->page_shift;
	u64 last = pc_min((end >> c->page_shift) + (end % c->page_size != 0), pc_last_index(c));
	u32 blocks = 0;
	*out = (struct pc_shown){.next = end};
	pc_inode_leaf_lock(i);
	bool alive = i->id == id;
	for (u32 folio; alive && index < last && (folio = pc_index_next(i, index, last));) {
		struct pc_folio *f = pc_folio_at(c, folio);
		u64 stop = pc_min(pc_folio_after(f), last), first = pc_max(index, pc_folio_index(f));
		index = first;
		if (out->folios == SLICE_FOLIOS || !show_folio(i, f, &w, &index, stop, &blocks)) {
			out->folios += index > first;
			out->next = pc_min(index << c->page_shift, end);
			break;
		}
		out->folios++;
	}
	pc_inode_leaf_unlock(i);
	out->runs = (u32)w.used;
	return alive;
}

/* Bytes in a running call are as old as when they were dirty; a running commit is as old as its call. Leaf lock held. */
static u64 unsaved_since(const struct pc_inode *i)
{
	u64 dirty = i->nr_dirty || i->nr_writeback ? i->dirtied_ns : 0;
	u64 committing = i->commit_running && i->commit_due ? i->commit_ns : 0;
	return dirty && committing ? pc_min(dirty, committing) : dirty + committing;
}

/**
 * pc_show_number() - what files are sorted by, without a report of everything.
 *
 * Return: bytes, hits, or when the oldest byte was written that is dirty or in a running call (0: none is); 0 when the inode is gone.
 */
uint64_t pc_show_number(struct pc_inode *i, uint64_t id, uint32_t which)
{
	u32 shift = i->cache->page_shift;
	u64 number = 0;
	PC_SYNC("show_before_lock");
	pc_inode_leaf_lock(i);
	if (i->id == id)
		number = which == PC_BY_DIRTY      ? i->nr_dirty << shift
			 : which == PC_BY_CACHED   ? i->nr_pages << shift
			 : which == PC_BY_FAILED   ? i->nr_failed << shift
			 : which == PC_BY_UNSTABLE ? i->nr_unstable << shift
			 : which == PC_BY_HITS     ? pc_inode_hits(i)
			 : which == PC_BY_UNSTORED ? (i->nr_dirty + i->nr_writeback) << shift
			 : which == PC_BY_TAKEN    ? pc_inode_taken(i)
						   : unsaved_since(i);
	pc_inode_leaf_unlock(i);
	return number;
}

/* Pieces of work that no thread has taken yet, by class. */
void pc_show_queue(struct pc_volume *v, uint32_t *waiting)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	for (u32 cls = 0; cls < PC_WORK_CLASSES; cls++)
		waiting[cls] = v->nr_work[cls] + v->jobs[cls];
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
}
