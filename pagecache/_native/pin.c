/*
 * pin.c - pins: memory that a view looks at, which survives truncate, discard and invalidation.
 *
 * A pin is a reference and a count in the folio's extension. A pinned folio is not evicted; where its bytes go it is detached
 * (pc_folio_remove): the view keeps the memory, the file does not see it any more.
 *
 * Locks: leaf lock.
 */
#include "internal.h"

/**
 * pc_pin() - hold the memory of the folio at @pos for a view.
 *
 * Return: 0 with *memory at @pos and *n bytes of it (at most len); -EAGAIN: need says what is missing (FILL); -ENOMEM;
 * -EMLINK: PC_PINS_MAX pins hold the folio.
 */
int pc_pin(struct pc_inode *i, uint64_t pos, uint64_t len, uint32_t *folio, uint8_t **memory, uint64_t *n,
	   struct pc_need *need)
{
	struct pc_cache *c = i->cache;
	int err = -EAGAIN;
	*need = (struct pc_need){.kind = PC_NEED_FILL, .pos = pos, .len = len};
	pc_inode_leaf_lock(i);
	u32 id = pc_index_lookup(i, pos >> c->page_shift);
	struct pc_folio *f = id ? pc_folio_at(c, id) : NULL;
	if (f && pc_folio_is(i, f, pos >> c->page_shift)) {
		u32 from = (u32)(pos - pc_folio_pos(c, f)), to = (u32)pc_min(from + len, pc_folio_bytes(c, f));
		if (!(pc_folio_state(f) & PC_F_STALE) && pc_valid_covers(c, f, from, to))
			err = pc_folio_ext_ensure(c, f);
		if (!err && pc_folio_ext(c, f)->pins >= PC_PINS_MAX)
			err = -EMLINK;
		if (!err) {
			bool got = pc_folio_get(f);
			PC_ASSERT(got);
			struct pc_ext *e = pc_folio_ext(c, f);
			if (e->pins++ == 0) {
				atomic_fetch_or(&f->state, PC_F_PINNED);
				i->nr_pinned += 1u << pc_folio_order(f);
			}
			*folio = id;
			*memory = pc_folio_memory(c, f) + from;
			*n = to - from;
		}
	}
	pc_inode_leaf_unlock(i);
	return err;
}

/* Any thread, any moment: a leaf lock and nothing else. */
void pc_unpin(struct pc_cache *c, uint32_t folio)
{
	struct pc_folio *f = pc_folio_at(c, folio);
	for (;;) {
		u64 id = atomic_load(&f->inode_id);
		struct pc_inode *i = id ? c->inodes[id & (PC_INODES_MAX - 1)] : NULL;
		if (!i)
			break;
		/* The pin keeps the folio, the folio in the index keeps the inode: it can only be detached meanwhile. */
		pc_inode_leaf_lock(i);
		bool attached = atomic_load(&f->inode_id) == i->id;
		if (attached) {
			struct pc_ext *e = pc_folio_ext(c, f);
			if (--e->pins == 0) {
				atomic_fetch_and(&f->state, ~(u32)PC_F_PINNED);
				i->nr_pinned -= 1u << pc_folio_order(f);
				pc_folio_ext_drop(i, f);
				if (!(pc_folio_state(f) & PC_F_LOCAL))
					pc_reclaim_clean(c, f);
			}
		}
		pc_inode_leaf_unlock(i);
		if (attached)
			break;
	}
	pc_folio_put(c, f);
}

bool pc_pin_detached(struct pc_cache *c, uint32_t folio)
{
	return pc_folio_state(pc_folio_at(c, folio)) & PC_F_DETACHED;
}
