/*
 * census.c - the inodes of a volume in numbers and lists, so that no call walks over all of them.
 *
 *   dirty    anything local, staged or uncommitted        in the order in which they became so
 *   aged     dirty bytes, not kept back                   by the time of the oldest dirty byte
 *   hollow   no handle, no page, nothing unsaved          in the order in which they became so
 *
 * Membership follows the inode's state: each change of state updates the list in the same section of the leaf lock, so the lists
 * are exact at every moment [I-13]. The engine forgets the oldest hollow inodes when there are many. An inode with pages stays as
 * long as they do: reclaim evicts the last folio and makes the inode hollow in one step.
 *
 * Lists are rings: each turn takes a few ids, and the next turn goes on behind them. So no turn walks over everything, and a
 * member that cannot go now does not stop the others.
 *
 * Locks: `dirty` and `aged` the volume's leaf lock (level 7); `hollow` a lock of level 8, since reclaim drops folios with its
 * queue lock held.
 */
#include "state/state.h"

/* [I-13] On the dirty list iff something is local, staged or uncommitted. Leaf lock held. */
void pc_dirty_list_update(struct pc_inode *i)
{
	bool wanted = pc_unsaved(i);
	if (wanted == i->on_dirty_list)
		return;
	PC_DEBUG_ASSERT(!i->dead);
	struct pc_volume *v = i->volume;
	if (!wanted)
		i->written_whole = 0;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	if (wanted)
		pc_list_add_tail(&v->dirty.list, &i->dirty_link);
	else
		pc_ring_del(&v->dirty, &i->dirty_link);
	i->on_dirty_list = wanted;
	atomic_fetch_add_explicit(&v->nr_dirty, wanted ? 1u : -1u, memory_order_relaxed);
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	pc_hollow_update(i);
}

/* Reading the time under the lock of the list keeps the list in the order of its times. */
static void age_from_now(struct pc_inode *i)
{
	struct pc_volume *v = i->volume;
	i->dirtied_ns = pc_now(i->cache);
	if (i->on_aged_list)
		pc_ring_del(&v->aged, &i->aged_link);
	pc_list_add_tail(&v->aged.list, &i->aged_link);
	i->on_aged_list = 1;
}

/* [I-13] Called after the first dirty byte came, the last one went, or the engine began or ended to keep the inode back. An inode
 * that enters the list counts as dirtied now. Leaf lock held. */
void pc_aged_update(struct pc_inode *i)
{
	bool wanted = i->nr_dirty && !(i->aside & PC_ASIDE_KEPT_BACK);
	struct pc_volume *v = i->volume;
	if (wanted == i->on_aged_list)
		return;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	if (wanted) {
		age_from_now(i);
	} else {
		pc_ring_del(&v->aged, &i->aged_link);
		i->on_aged_list = 0;
	}
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
}

/* [I-13] On the hollow list iff no handle has it open, and it has neither pages nor unsaved data. Leaf lock held. */
void pc_hollow_update(struct pc_inode *i)
{
	struct pc_cache *c = i->cache;
	bool wanted = i->unused && !i->nr_folios && !pc_unsaved(i) && !i->dead;
	if (wanted == i->on_hollow_list)
		return;
	pc_leaf_lock(&c->hollow_lock, PC_LEVEL_FRAME);
	if (wanted)
		pc_list_add_tail(&i->volume->hollow.list, &i->hollow_link);
	else
		pc_ring_del(&i->volume->hollow, &i->hollow_link);
	i->on_hollow_list = wanted;
	atomic_fetch_add_explicit(&c->nr_hollow, wanted ? 1u : -1u, memory_order_relaxed);
	pc_leaf_unlock(&c->hollow_lock, PC_LEVEL_FRAME);
}

/* So many folios more, or fewer, of so many blocks. Leaf lock held. */
void pc_folios_changed(struct pc_inode *i, i64 folios, i64 blocks)
{
	struct pc_sums *all = &i->volume->sums;
	bool had = i->nr_folios;
	i->nr_folios += (u32)folios;
	i->nr_pages += (u64)blocks;
	pc_sum(&all->folios, (u64)folios);
	pc_sum(&all->pages, (u64)blocks);
	if (had != (i->nr_folios != 0))
		pc_hollow_update(i);
}

/* ---------------------------------------------------------------- flags that the engine sets */

/* @unused: no handle has the inode open. */
void pc_inode_set_unused(struct pc_inode *i, bool unused)
{
	pc_inode_leaf_lock(i);
	i->unused = unused;
	pc_hollow_update(i);
	pc_inode_leaf_unlock(i);
}

/* @aside: bits of enum pc_aside, which say what leaves the inode out. */
void pc_inode_set_aside(struct pc_inode *i, uint32_t aside)
{
	pc_inode_leaf_lock(i);
	if (i->aside != aside) {
		u64 bytes = (i->nr_local << i->cache->page_shift) + pc_staged_bytes(i);
		if (!i->aside != !aside)
			pc_sum(&i->volume->sums.aside, aside ? bytes : -bytes);
		i->aside = (u8)aside;
		pc_aged_update(i);
	}
	pc_inode_leaf_unlock(i);
}

/* The dirty bytes count as written now: write-back has taken care of them. */
void pc_inode_age_anew(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	if (i->on_aged_list) {
		pc_leaf_lock(&i->volume->leaf, PC_LEVEL_QUEUE);
		age_from_now(i);
		pc_leaf_unlock(&i->volume->leaf, PC_LEVEL_QUEUE);
	}
	pc_inode_leaf_unlock(i);
}

/* ---------------------------------------------------------------- lists */

/* Ids of inodes on the dirty list (the engine checks their stamps). Return: how many there are, which may exceed n. */
size_t pc_volume_dirty_inodes(struct pc_volume *v, uint64_t *ids, size_t n)
{
	size_t k = 0;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	for (struct pc_list *l = v->dirty.list.next; l != &v->dirty.list && k < n; l = l->next)
		ids[k++] = PC_ENTRY(l, struct pc_inode, dirty_link)->id;
	k = atomic_load_explicit(&v->nr_dirty, memory_order_relaxed);
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	return k;
}

/* The next n of a ring, each once. @link: where the link lies in an inode. Return: how many. */
static size_t some(struct pc_ring *r, size_t link, uint64_t *ids, size_t n)
{
	size_t k = 0;
	struct pc_list *first = pc_ring_after(r, NULL), *l = first;
	for (; l && k < n && (k == 0 || l != first); l = pc_ring_after(r, l))
		ids[k++] = ((struct pc_inode *)((char *)l - link))->id;
	r->next = l && l != first ? l : &r->list;
	return k;
}

/* The next n inodes of a list, in turn. @which: PC_LIST_x. Return: how many. */
size_t pc_volume_some(struct pc_volume *v, uint32_t which, uint64_t *ids, size_t n)
{
	static const size_t links[] = {[PC_LIST_DIRTY] = offsetof(struct pc_inode, dirty_link),
				       [PC_LIST_AGED] = offsetof(struct pc_inode, aged_link),
				       [PC_LIST_HOLLOW] = offsetof(struct pc_inode, hollow_link)};
	struct pc_ring *rings[] = {&v->dirty, &v->aged, &v->hollow};
	bool hollow = which == PC_LIST_HOLLOW;
	struct pc_leaf_lock *lock = hollow ? &v->cache->hollow_lock : &v->leaf;
	pc_leaf_lock(lock, hollow ? PC_LEVEL_FRAME : PC_LEVEL_QUEUE);
	size_t k = some(rings[which], links[which], ids, n);
	pc_leaf_unlock(lock, hollow ? PC_LEVEL_FRAME : PC_LEVEL_QUEUE);
	return k;
}

/* Inodes whose oldest dirty byte is of @before_ns or older, oldest first. @next_ns: when the first one was dirtied that
 * is not among them; 0: there is none. Return: how many, at most n. */
size_t pc_volume_aged(struct pc_volume *v, uint64_t before_ns, uint64_t *ids, size_t n, uint64_t *next_ns)
{
	size_t k = 0;
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	struct pc_list *l = v->aged.list.next;
	for (; l != &v->aged.list && k < n; l = l->next) {
		const struct pc_inode *i = PC_ENTRY(l, struct pc_inode, aged_link);
		if (i->dirtied_ns > before_ns)
			break;
		ids[k++] = i->id;
	}
	*next_ns = l == &v->aged.list ? 0 : PC_ENTRY(l, struct pc_inode, aged_link)->dirtied_ns;
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
	return k;
}

uint32_t pc_cache_hollow(struct pc_cache *c)
{
	return atomic_load_explicit(&c->nr_hollow, memory_order_relaxed);
}

/* ---------------------------------------------------------------- sums */

static u64 get(const _Atomic u64 *sum)
{
	return atomic_load_explicit((_Atomic u64 *)sum, memory_order_relaxed);
}

/* The counters of the volume, and the bytes of its inodes by state. O(1). */
void pc_volume_counters(struct pc_volume *v, struct pc_counters *counters, struct pc_usage *u)
{
	const struct pc_sums *s = &v->sums;
	u32 shift = v->cache->page_shift;
	u64 pinned = get(&s->write_pinned), local = atomic_load(&v->local) + pinned, pages = get(&s->pages);
	memset(counters, 0, sizeof(*counters));
	pc_counters_add(counters, &v->counted);
	for (u32 k = 0; k < PC_HIT_LINES; k++)
		counters->hits += get(&v->hits[k].n);
	*u = (struct pc_usage){
		.cached = pages << shift,
		.clean = pages > local ? (pages - local) << shift : 0,
		.dirty = get(&s->dirty) << shift,
		.writeback = get(&s->writeback) << shift,
		.unstable = get(&s->unstable) << shift,
		.failed = get(&s->failed) << shift,
		.local = local << shift,
		.staged = get(&s->staged),
		.pinned = get(&s->pinned) << shift,
		.write_pinned = pinned << shift,
		.folios = get(&s->folios),
		.size = get(&s->size),
		.remote_size = get(&s->remote_size),
	};
}
