/*
 * check.c - one checker per invariant of contract section 4; reports the first that is broken instead of aborting.
 *
 * pc_check holds every inode's leaf lock and the queue, shadow and arena locks at once, so that no set, stamp, mark, size or
 * free list moves. It cannot see: content of folios that a writer has locked, frames that are between two owners at
 * this moment (counted as "in transit"), and references of calls that are running. Because a thread may stand between two
 * sections, a finding counts only if it stands for many rounds.
 *
 * Order of locks: all leaf locks (level 6), then queue (7), then shadow and arena (8).
 */
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "state/state.h"

enum { PC_ROUNDS = 200 };

static u64 at(const struct pc_folio *f)
{
	return pc_folio_index(f);
}

/* I-1: L and X lie in V and D, P in both; ragged extents stay inside one block, apart, outside valid blocks. I-10: a local
 * block has a byte before the end of the file, or its hand-over would be empty; a caller with the token may be moving that
 * end. */
static bool check_bytes(const struct pc_inode *i, const struct pc_folio *f, struct pc_violation *out)
{
	const struct pc_cache *c = i->cache;
	u32 blocks = 1u << pc_folio_order(f);
	u64 start = pc_folio_pos(c, f), size = pc_inode_size(i);
	for (u32 b = 0; b < blocks; b++) {
		if (!pc_written_check_block(i, f, b, out))
			return false;
		u32 from = b << c->page_shift, to = from + c->page_size;
		bool any_valid = pc_missing_until(c, f, from, to) < to;
		if (pc_local_count(c, f, b, b + 1) && !any_valid)
			return pc_violated(out, "I-1", "inode % page %+%: local and nothing valid", i->id, at(f), b);
		u32 end = size > start + from ? (u32)pc_min(size - start, to) : from;
		if (pc_local_count(c, f, b, b + 1) && i->token != PC_TOKEN_CALLER &&
		    (end == from || pc_missing_until(c, f, from, end) == end))
			return pc_violated(out, "I-10", "inode % page %+%: local behind the end % alone", i->id, at(f),
					   b, size);
		if (pc_set_count(c, f, PC_X, b, b + 1) && !pc_set_count(c, f, PC_D, b, b + 1))
			return pc_violated(out, "I-1", "inode % page %+%: failed and not dirty", i->id, at(f), b);
		if (pc_set_count(c, f, PC_P, b, b + 1) &&
		    !(pc_set_count(c, f, PC_D, b, b + 1) &&
		      pc_valid_covers(c, f, from, (u32)pc_min(to, pc_folio_ext(c, f)->write_end))))
			return pc_violated(out, "I-1", "inode % page %+%: pinned for storing and not dirty", i->id,
					   at(f), b);
	}
	struct pc_ext *e = pc_folio_ext(c, f);
	for (u32 k = 0; e && k < PC_RAGGED_SLOTS && !(pc_folio_state(f) & PC_F_UPTODATE); k++) {
		u64 r = atomic_load(&e->ragged[k]);
		u32 from = (u32)(r >> 32), to = (u32)r;
		if (r && (from >= to || from / c->page_size != (to - 1) / c->page_size))
			return pc_violated(out, "I-1", "inode % page %: extent %..%", i->id, at(f), from, to);
		for (u32 j = 0; r && j < k; j++) {
			u64 other = atomic_load(&e->ragged[j]);
			bool same_block = from / c->page_size == (u32)(other >> 32) / c->page_size;
			if (other && same_block && from <= (u32)other && (u32)(other >> 32) <= to)
				return pc_violated(out, "I-1", "inode % page %: extents meet at %", i->id, at(f), from);
		}
	}
	return true;
}

/* I-2 (flags and leaf marks) and I-3 (stamps). */
static bool check_flags(const struct pc_inode *i, const struct pc_folio *f, struct pc_violation *out)
{
	static const struct {
		enum pc_set set;
		u32 flag;
		int mark;
	} rows[] = {{PC_D, PC_F_DIRTY, PC_MARK_DIRTY},
		    {PC_W, PC_F_WRITEBACK, PC_MARK_WRITEBACK},
		    {PC_U, PC_F_UNSTABLE, PC_MARK_UNSTABLE},
		    {PC_X, PC_F_FAILED, -1}};
	const struct pc_stamp *stamps[] = {&f->d, &f->w, &f->u};
	const struct pc_cache *c = i->cache;
	u32 blocks = 1u << pc_folio_order(f), st = pc_folio_state(f);
	u64 epoch = atomic_load(&i->volume->epoch);
	for (int k = 0; k < 4; k++) {
		bool any = pc_set_count(c, f, rows[k].set, 0, blocks) != 0, flag = st & rows[k].flag;
		if (any != flag)
			return pc_violated(out, "I-2", "inode % page %: set % is %, its flag %", i->id, at(f), k, any,
					   flag);
		for (u32 b = 0; rows[k].mark >= 0 && b < blocks; b++)
			if (pc_index_marked(i, pc_folio_index(f) + b, (enum pc_mark)rows[k].mark) != flag)
				return pc_violated(out, "I-2", "inode % page %+%: mark % is not %", i->id, at(f), b,
						   rows[k].mark, flag);
		if (k == 3)
			break;
		u64 stamp = pc_stamp_get(stamps[k]);
		if ((stamp == PC_STAMP_NONE) == flag || (flag && stamp > epoch))
			return pc_violated(out, "I-3", "inode % page %: set % is %, its stamp %, epoch %", i->id, at(f),
					   k, flag, stamp, epoch);
	}
	return true;
}

/* I-2: flags and sets say what the pins are. I-9: no view may store behind the end of the file. */
static bool check_pins(const struct pc_inode *i, const struct pc_folio *f, struct pc_violation *out)
{
	const struct pc_ext *e = pc_folio_ext(i->cache, f);
	u32 st = pc_folio_state(f), pins = e ? e->pins : 0, write_pins = e ? e->write_pins : 0;
	bool p = pc_set_count(i->cache, f, PC_P, 0, 1u << pc_folio_order(f)) != 0;
	if (!pins != !(st & PC_F_PINNED) || !write_pins != !(st & PC_F_WRITE_PINNED) || p != (write_pins != 0) ||
	    write_pins > pins || pins >= atomic_load(&((struct pc_folio *)f)->refs))
		return pc_violated(out, "I-2", "inode % page %: % pins, % for storing, state %x", i->id, at(f), pins,
				   write_pins, st);
	if (write_pins && pc_folio_pos(i->cache, f) + e->write_end > pc_inode_size(i))
		return pc_violated(out, "I-9", "inode % page %: a view may store up to byte %, the file ends at %",
				   i->id, at(f), e->write_end, pc_inode_size(i));
	return true;
}

/* I-4: aligned, found at each index, of this inode. I-5: referenced by the index at least. */
static bool check_place(const struct pc_inode *i, const struct pc_folio *f, struct pc_violation *out)
{
	const struct pc_cache *c = i->cache;
	u32 id = pc_folio_id(c, f), pages = 1u << pc_folio_order(f);
	if (atomic_load(&((struct pc_folio *)f)->inode_id) != i->id || pc_folio_index(f) % pages)
		return pc_violated(out, "I-4", "inode % page %: identity or alignment", i->id, at(f));
	for (u32 k = 0; k < pages; k++)
		if (pc_index_lookup(i, pc_folio_index(f) + k) != id)
			return pc_violated(out, "I-4", "inode % page %+%: not found", i->id, at(f), k);
	if (atomic_load(&((struct pc_folio *)f)->refs) == 0)
		return pc_violated(out, "I-5", "inode % page %: in the index without a reference", i->id, at(f));
	return true;
}

/* I-9: valid bytes past the end of the file are zero, unless a thread works on the folio. Its lock keeps writers out. */
static bool check_tail(struct pc_inode *i, struct pc_folio *f, struct pc_violation *out)
{
	struct pc_cache *c = i->cache;
	u64 start = pc_folio_pos(c, f), size = pc_inode_size(i);
	u32 end = pc_folio_bytes(c, f), from = size > start ? (u32)pc_min(size - start, end) : 0;
	if (from == end || !pc_folio_trylock(f))
		return true;
	const u8 *memory = pc_folio_memory(c, f);
	bool ok = true;
	for (u32 valid; ok && pc_valid_run(c, f, &from, end, &valid);)
		for (; ok && from < valid; from++)
			if (memory[from])
				ok = pc_violated(out, "I-9", "inode % page % byte %: not zero past the end %", i->id,
						 at(f), from, size);
	pc_folio_unlock(c, f);
	return ok;
}

/* I-10: a local size beyond storage's is carried by a local last byte. */
static bool check_size(const struct pc_inode *i, struct pc_violation *out)
{
	const struct pc_cache *c = i->cache;
	u64 size = pc_inode_size(i), remote = pc_inode_remote_size(i);
	if (size <= remote)
		return true;
	u32 id = pc_index_lookup(i, (size - 1) >> c->page_shift);
	const struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
	u32 b = f ? (u32)(((size - 1) >> c->page_shift) - pc_folio_index(f)) : 0;
	if (!f || !(pc_set_count(c, f, PC_D, b, b + 1) + pc_set_count(c, f, PC_W, b, b + 1)))
		return pc_violated(out, "I-10", "inode %: size %, in storage %, and the last byte is not dirty", i->id,
				   size, remote);
	return true;
}

/* Whether the dirty list leads to the inode and on to the head, or to one that lives. It changes under inode locks, which are all
 * held. */
static bool listed(const struct pc_inode *i)
{
	const struct pc_list *l = &i->dirty_link, *head = &i->volume->dirty.list;
	if (pc_list_empty(l) || l->prev->next != l || l->next->prev != l)
		return false;
	const struct pc_inode *next = l->next == head ? i : PC_ENTRY(l->next, struct pc_inode, dirty_link);
	return !next->dead && next->on_dirty_list;
}

/* I-13: the list by age and the list of hollow inodes, which change under inode locks too. */
static bool check_lists(const struct pc_inode *i, struct pc_violation *out)
{
	bool aged = i->nr_dirty && !(i->aside & PC_ASIDE_KEPT_BACK);
	bool hollow = i->unused && !i->nr_folios && !pc_unsaved(i);
	if (aged != i->on_aged_list || aged == pc_list_empty(&i->aged_link))
		return pc_violated(out, "I-13", "inode %: % dirty blocks, on the list by age: %", i->id, i->nr_dirty,
				   i->on_aged_list);
	if (aged && i->aged_link.next != &i->volume->aged.list &&
	    PC_ENTRY(i->aged_link.next, struct pc_inode, aged_link)->dirtied_ns < i->dirtied_ns)
		return pc_violated(out, "I-13", "inode %: what is behind it by age is older", i->id);
	if (hollow != i->on_hollow_list || hollow == pc_list_empty(&i->hollow_link))
		return pc_violated(out, "I-13", "inode %: unused %, % folios, on the list of hollow ones: %", i->id,
				   i->unused, i->nr_folios, i->on_hollow_list);
	return true;
}

/* I-11 … I-14 and the counts. */
static bool check_inode_state(const struct pc_inode *i, struct pc_violation *out)
{
	const struct pc_pass *p = &i->pass;
	u64 last = pc_last_index(i->cache);
	if (i->nr_writeback && p->inflight == 0 && pc_list_empty(&p->ready))
		return pc_violated(out, "I-11", "inode %: % blocks in flight without a call", i->id, i->nr_writeback);
	if (i->token == PC_TOKEN_FREE && (p->inflight || p->active || i->commit_running || i->nr_writeback))
		return pc_violated(out, "I-12", "inode %: token free with % requests in flight", i->id, p->inflight);
	bool wanted = pc_unsaved(i);
	if (wanted && i->on_dirty_list && !listed(i))
		return pc_violated(out, "I-13", "inode %: another inode has its place on the dirty list", i->id);
	if (wanted != i->on_dirty_list)
		return pc_violated(out, "I-13", "inode %: % local blocks, on the dirty list: %", i->id, i->nr_local,
				   i->on_dirty_list);
	if (pc_index_next_marked(i, 0, last, PC_MARK_TOWRITE, NULL) && !p->active && !i->pass_wanted)
		return pc_violated(out, "I-14", "inode %: TOWRITE marks and no pass", i->id);
	bool queued = atomic_load(&((struct pc_inode *)i)->lock_word) >> 30 & 1;
	if (queued == pc_list_empty(&i->lock_queue))
		return pc_violated(out, "I-16", "inode %: lock queue and its flag differ", i->id);
	if (i->nr_direct_left > i->nr_direct || (i->nr_direct && !pc_inode_is_locked(i)))
		return pc_violated(out, "I-16", "inode %: % direct writes, % of them left, and the lock is free", i->id,
				   i->nr_direct, i->nr_direct_left);
	if (i->gate && i->token == PC_TOKEN_FREE)
		return pc_violated(out, "I-16", "inode %: the gate is closed, and the token is free", i->id);
	if (pc_commit_waits(i) && !pc_direct_runs(i) && !i->commit_queued && !i->commit_running)
		return pc_violated(out, "I-16", "inode %: a commit waits for direct writes, and none runs", i->id);
	if ((pc_map_bytes(&i->direct.now) || pc_map_bytes(&i->direct.moved)) && i->stamp_m == PC_STAMP_NONE &&
	    i->stamp_m_moved == PC_STAMP_NONE)
		return pc_violated(out, "I-3", "inode %: uncommitted direct writes without a stamp", i->id);
	return true;
}

static bool check_counts(struct pc_inode *i, struct pc_violation *out)
{
	const struct pc_cache *c = i->cache;
	u64 folios = 0, pages = 0, d = 0, w = 0, u = 0, x = 0, local = 0, pinned = 0, p = 0;
	u64 index = 0;
	for (struct pc_folio *f; (f = pc_next_folio(i, &index, pc_last_index(c)));) {
		u32 blocks = 1u << pc_folio_order(f);
		folios++;
		pages += blocks;
		d += pc_set_count(c, f, PC_D, 0, blocks);
		w += pc_set_count(c, f, PC_W, 0, blocks);
		u += pc_set_count(c, f, PC_U, 0, blocks);
		x += pc_set_count(c, f, PC_X, 0, blocks);
		local += pc_local_count(c, f, 0, blocks);
		pinned += pc_folio_state(f) & PC_F_PINNED ? blocks : 0;
		p += pc_set_count(c, f, PC_P, 0, blocks);
		if (!check_place(i, f, out) || !check_bytes(i, f, out) || !check_flags(i, f, out) ||
		    !check_pins(i, f, out) || !check_tail(i, f, out))
			return false;
	}
	if (pinned != i->nr_pinned || p != i->nr_write_pinned)
		return pc_violated(out, "I-2", "inode %: counts differ: pinned %/%, for storing %/%", i->id, pinned,
				   i->nr_pinned, p, i->nr_write_pinned);
	if (folios != i->nr_folios || pages != i->nr_pages || d != i->nr_dirty || w != i->nr_writeback ||
	    u != i->nr_unstable || x != i->nr_failed || local != i->nr_local)
		return pc_violated(out, "I-2", "inode %: counts differ: pages %/% D %/% W %/% U %/%", i->id, pages,
				   i->nr_pages, d, i->nr_dirty, w, i->nr_writeback, u, i->nr_unstable);
	return true;
}

static bool check_inode(struct pc_inode *i, struct pc_violation *out)
{
	const struct pc_rangemap *maps[] = {&i->borrowed,     &i->unwritten,       &i->beside_unwritten, &i->direct.now,
					    &i->direct.moved, &i->direct.reported, &i->unlogged};
	for (size_t k = 0; k < sizeof(maps) / sizeof(*maps); k++)
		if (!pc_map_check(maps[k], i->id, out))
			return false;
	return pc_index_check(i, out) && check_counts(i, out) && pc_staged_check(i, out) && check_size(i, out) &&
	       check_inode_state(i, out) && check_lists(i, out);
}

/* I-8 and the shape of the reclaim queues. */
static bool check_queue(const struct pc_cache *c, const struct pc_fifo *q, u32 flag, struct pc_violation *out)
{
	u64 pages = 0;
	u32 prev = 0, n = 0;
	for (u32 id = q->head; id; id = pc_folio_at(c, id)->next) {
		const struct pc_folio *f = pc_folio_at(c, id);
		u32 st = pc_folio_state(f);
		if ((st & (PC_F_SMALL | PC_F_MAIN)) != flag || f->prev != prev || st & PC_F_DETACHED ||
		    ++n > c->folios.used)
			return pc_violated(out, "I-8", "folio % on a reclaim queue: state %x", id, st);
		pages += 1u << pc_folio_order(f);
		prev = id;
	}
	if (pages != q->pages || prev != q->tail)
		return pc_violated(out, "I-8", "a reclaim queue counts % pages and has %", q->pages, pages);
	return true;
}

static bool own(const struct pc_cache *c, u8 *owned, u32 frame, u32 order, u64 *total, struct pc_violation *out)
{
	for (u32 k = 0; k < 1u << order; k++) {
		if (frame + k >= c->arena.frames || owned[frame + k]++)
			return pc_violated(out, "I-6", "frame % has two owners", frame + k);
		if (pc_arena_is_free(&c->arena, frame + k))
			return pc_violated(out, "I-6", "frame % is owned and free", frame + k);
	}
	*total += 1u << order;
	return true;
}

/* I-5: a frame that is held in its folio is known by the folio's flag. */
static bool check_held(const struct pc_cache *c, const struct pc_shadow *s, struct pc_violation *out)
{
	struct pc_folio *f = pc_folio_at(c, s->folio);
	if (s->holds && atomic_load(&f->refs) && atomic_load(&f->frame) == s->frame && pc_folio_state(f) & PC_F_HELD)
		return true;
	return pc_violated(out, "I-5", "frame % has % holds as that of folio %, whose frame is %, state %x", s->frame,
			   s->holds, s->folio, atomic_load(&f->frame), pc_folio_state(f));
}

/* I-6, I-7: every frame has one owner. */
static bool check_frames(const struct pc_cache *c, u8 *owned, struct pc_violation *out)
{
	u64 total = 0;
	struct pc_arena *a = (struct pc_arena *)&c->arena;
	for (u32 id = 1; id < c->folios.fresh; id++) {
		struct pc_folio *f = pc_folio_at(c, id);
		if (atomic_load(&f->refs) && !own(c, owned, atomic_load(&f->frame), pc_folio_order(f), &total, out))
			return false;
	}
	for (u32 k = 0; k < PC_SHADOW_BUCKETS; k++)
		for (u32 id = c->shadow_heads[k]; id;) {
			const struct pc_shadow *s = pc_pool_at(&c->shadows, id);
			if (s->folio ? !check_held(c, s, out) : !own(c, owned, s->frame, s->order, &total, out))
				return false;
			id = s->link;
		}
	if (!pc_arena_check(a, out))
		return false;
	if (total + atomic_load(&a->transit) != atomic_load(&a->used))
		return pc_violated(out, "I-7", "% frames owned and % in transit of % in use", total,
				   atomic_load(&a->transit), atomic_load(&a->used));
	if (atomic_load(&a->used) > atomic_load(&a->capacity))
		return pc_violated(out, "I-7", "% frames in use of %", atomic_load(&a->used),
				   atomic_load(&a->capacity));
	return true;
}

/* I-28: what threads without Python may touch at any moment is kept: an open hit is a user of its inode, and one of `copies`. */
static bool check_hits(struct pc_cache *c, struct pc_violation *out)
{
	u32 open = 0, copies = atomic_load(&c->copies);
	for (u32 k = 0; k < c->inode_slots; k++) {
		struct pc_inode *i = c->inodes[k];
		u32 hits = i ? atomic_load(&i->hits_open) : 0;
		if (hits && hits > atomic_load(&i->users))
			return pc_violated(out, "I-28", "inode %: % open hits, and fewer users", i->id, hits);
		open += hits;
	}
	return open <= copies || pc_violated(out, "I-28", "% open hits, and % copies", open, copies);
}

/* Sums of the inodes against the numbers that limits use. */
static bool check_sums(struct pc_cache *c, struct pc_violation *out)
{
	u64 local = 0, unstable = 0, pinned = 0;
	for (u32 k = 0; k < c->inode_slots; k++)
		if (c->inodes[k]) {
			local += c->inodes[k]->nr_local - c->inodes[k]->nr_write_pinned;
			pinned += c->inodes[k]->nr_write_pinned;
			unstable += c->inodes[k]->nr_unstable;
		}
	if (unstable == atomic_load(&c->unstable) && pinned == atomic_load(&c->write_pinned) &&
	    local == atomic_load(&c->local))
		return true;
	return pc_violated(
		out, "I-2",
		"in inodes and in the cache: unstable blocks %, %, pinned for storing %, %, other local ones %, %",
		unstable, atomic_load(&c->unstable), pinned, atomic_load(&c->write_pinned), local,
		atomic_load(&c->local));
}

/* I-2: the sums of a volume and the number of hollow inodes are those that a walk finds. */
static bool check_volume(struct pc_cache *c, const struct pc_volume *v, u64 *hollow, struct pc_violation *out)
{
	struct pc_usage want = {0}, have;
	struct pc_counters ignored;
	u64 aside = 0;
	for (u32 k = 0; k < c->inode_slots; k++) {
		const struct pc_inode *i = c->inodes[k];
		if (!i || i->volume != v || !i->id)
			continue;
		pc_usage_of(&want, i);
		aside += i->aside ? (i->nr_local << c->page_shift) + pc_staged_bytes(i) : 0;
		*hollow += i->on_hollow_list;
	}
	pc_volume_counters((struct pc_volume *)v, &ignored, &have);
	const u64 *w = (const u64 *)&want, *h = (const u64 *)&have;
	for (size_t k = 0; k < sizeof(want) / sizeof(u64); k++)
		if (w[k] != h[k])
			return pc_violated(out, "I-2", "volume %: sum % of its inodes is %, and counted %", v->slot, k,
					   w[k], h[k]);
	if (aside != atomic_load(&v->sums.aside))
		return pc_violated(out, "I-2", "volume %: % bytes aside in inodes, % counted", v->slot, aside,
				   atomic_load(&v->sums.aside));
	return true;
}

/* Of volumes with inodes: those stay. */
static bool check_volumes(struct pc_cache *c, struct pc_violation *out)
{
	u64 hollow = 0;
	u32 round = ++c->checks;
	for (u32 k = 0; k < c->inode_slots; k++) {
		struct pc_volume *v = c->inodes[k] && c->inodes[k]->id ? c->inodes[k]->volume : NULL;
		if (v && v->checked != round && !check_volume(c, v, &hollow, out))
			return false;
		if (v)
			v->checked = round;
	}
	return hollow == atomic_load(&c->nr_hollow) ||
	       pc_violated(out, "I-2", "% hollow inodes, % counted", hollow, atomic_load(&c->nr_hollow));
}

static struct pc_inode *inode_with(const struct pc_cache *c, u64 id)
{
	for (u32 k = 0; k < c->inode_slots; k++)
		if (c->inodes[k] && c->inodes[k]->id == id)
			return c->inodes[k];
	return NULL;
}

/* I-16: a logical lock with a registered waiter has a holder. What an event ends is not looked at: a thread may
 * have been woken and not yet run. */
static bool check_waits(struct pc_cache *c, struct pc_violation *out)
{
	u32 bound = pc_waits_bound(c);
	struct pc_wait w;
	for (u32 id = 1; id < bound; id++) {
		if (!pc_wait_read(c, id, &w))
			continue;
		const struct pc_inode *i = w.inode ? inode_with(c, w.inode) : NULL;
		bool lock = w.kind == PC_WAIT_LOCK || w.kind == PC_WAIT_LOCK_SHARED;
		bool idle = lock ? i && !atomic_load(&((struct pc_inode *)i)->lock_word)
				 : w.kind == PC_WAIT_TOKEN && i && i->token == PC_TOKEN_FREE;
		if (idle || !w.kind || w.kind >= PC_WAITS || w.pos > w.end)
			return pc_violated(out, "I-16", "wait %, of kind %: inode % is free, or there is no such wait",
					   id, w.kind, w.inode);
	}
	return true;
}

static bool check_once(struct pc_cache *c, u8 *owned, struct pc_violation *out)
{
	u32 slots = c->inode_slots;
	struct pc_inode **inodes = calloc(slots + 1, sizeof(*inodes));
	if (!inodes)
		return true;
	bool ok = true;
	for (u32 k = 0; k < slots; k++) {
		inodes[k] = c->inodes[k];
		if (inodes[k])
			pc_inode_leaf_lock(inodes[k]);
	}
	pc_leaf_lock(&c->queue_lock, PC_LEVEL_QUEUE);
	pc_leaf_lock(&c->shadow_lock, PC_LEVEL_FRAME);
	pc_leaf_lock(&c->arena.lock, PC_LEVEL_FRAME);
	for (u32 k = 0; ok && k < slots; k++)
		ok = !inodes[k] || inodes[k]->id == 0 || check_inode(inodes[k], out);
	ok = ok && check_queue(c, &c->small, PC_F_SMALL, out) && check_queue(c, &c->main, PC_F_MAIN, out);
	ok = ok && check_frames(c, owned, out) && check_sums(c, out) && check_waits(c, out) && check_hits(c, out);
	ok = ok && check_volumes(c, out);
	pc_leaf_unlock(&c->arena.lock, PC_LEVEL_FRAME);
	pc_leaf_unlock(&c->shadow_lock, PC_LEVEL_FRAME);
	pc_leaf_unlock(&c->queue_lock, PC_LEVEL_QUEUE);
	for (u32 k = slots; k-- > 0;)
		if (inodes[k])
			pc_inode_leaf_unlock(inodes[k]);
	free(inodes);
	return ok;
}

/* Verify the invariants above, with the world stopped. No inode may be created or destroyed during the check (the
 * engine's cache lock). Return: 0; 1 and the first violation. */
int pc_check(struct pc_cache *c, struct pc_violation *out)
{
	memset(out, 0, sizeof(*out));
	for (int round = 0; round < PC_ROUNDS; round++) {
		u8 *owned = calloc(c->arena.frames + 1u, 1);
		if (!owned)
			return 0;
		bool ok = check_once(c, owned, out);
		free(owned);
		if (ok)
			return 0;
		if (round < 20)
			pc_yield();
		else
			usleep(200);
	}
	return 1;
}
