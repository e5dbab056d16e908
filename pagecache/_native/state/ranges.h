/*
 * ranges.h - block sets and byte extents of one folio, and the extension that holds them (ranges.c).
 */
#ifndef PC_RANGES_H
#define PC_RANGES_H

#include "state/folio.h"

/* Block sets; P: what views may store to. For one-page folios all but V are the flags themselves; larger folios keep bitmaps in their extension. */
enum pc_set { PC_V, PC_D, PC_W, PC_U, PC_X, PC_P, PC_SETS };

/* Ragged extents that writers and fills may take; the end of a file that another version replaces may need one more. */
enum { PC_RAGGED = 8, PC_RAGGED_SLOTS = PC_RAGGED + 1 };

/* Extension of a folio: exists iff the folio is not uptodate, is pinned, or has more than one page and local bytes. */
struct pc_ext {
	u32 link; /* free link */
	u32 pins;       /* of views; those that may store among them: */
	u32 write_pins;
	u32 write_end; /* no view that may store reaches behind this byte of the folio */
	_Atomic u32
		cuts; /* times that valid bytes became missing under a view: what it shows there is no longer the file's */
	_Atomic u32 words; /* per set; 0 in memory never used */
	_Atomic u64 ragged[PC_RAGGED_SLOTS]; /* valid bytes outside whole valid blocks: start << 32 | end; 0: unused */
	_Atomic u64 sets[]; /* PC_SETS times `words` */
};

static inline u32 pc_ext_class(u32 order)
{
	return order <= 6 ? 0 : order - 6;
}
static inline struct pc_ext *pc_folio_ext(const struct pc_cache *c, const struct pc_folio *f)
{
	u32 id = atomic_load_explicit(&((struct pc_folio *)f)->ext, memory_order_acquire);
	return id ? pc_pool_at(&c->exts[pc_ext_class(pc_folio_order(f))], id) : NULL;
}

int pc_folio_ext_ensure(struct pc_cache *c, struct pc_folio *f);
void pc_folio_ext_drop(struct pc_inode *i, struct pc_folio *f);

bool pc_valid_covers(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to);
u32 pc_valid_until(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to);
u32 pc_missing_until(const struct pc_cache *c, const struct pc_folio *f, u32 from, u32 to);
bool pc_valid_run(const struct pc_cache *c, const struct pc_folio *f, u32 *from, u32 to, u32 *end);
bool pc_set_run(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u64 from, u64 eof, u64 *start,
		u64 *end);
bool pc_valid_add(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to);
bool pc_valid_keep(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to);
bool pc_valid_can_add(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to);
void pc_valid_cut(struct pc_cache *c, struct pc_folio *f, u32 from, u32 to);
u32 pc_set_add(struct pc_cache *c, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_del(struct pc_cache *c, struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_count(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_next(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_set_next_clear(const struct pc_cache *c, const struct pc_folio *f, enum pc_set s, u32 b0, u32 b1);
u32 pc_local_count(const struct pc_cache *c, const struct pc_folio *f, u32 b0, u32 b1);

/* folio.c */
bool pc_any_block(const struct pc_inode *i, enum pc_set set, u64 index, u64 last);

#endif
