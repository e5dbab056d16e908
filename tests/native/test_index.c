/* The radix index: random use against a plain array, far offsets, visits of range queries, memory per page. */
#include "rig.h"

enum { PAGES = 4096 };

/* ids are plain numbers here: the index never reads a folio */
struct model {
	struct {
		u32 id;
		u8 order, marks; /* equal for all pages of a folio */
	} at[PAGES];
};

static u32 first_of(const struct model *m, u64 from, u64 to, int mark)
{
	for (u64 k = from; k < to && k < PAGES; k++)
		if (m->at[k].id && (mark < 0 || m->at[k].marks >> mark & 1))
			return m->at[k].id;
	return 0;
}

/* Check that a walk by handfuls finds the same as a walk one by one. */
static void compare_walks(struct pc_inode *i, const struct model *m, u64 base, u64 from, u64 to, enum pc_mark mark)
{
	u32 ids[5], last = 0;
	u64 at = from;
	for (u32 n; (n = pc_index_collect(i, base + at, base + to, mark, ids, 5));)
		for (u32 k = 0; k < n; k++) {
			u32 want = first_of(m, at, to, (int)mark);
			EQUAL(ids[k], want);
			CHECK(ids[k] != last);
			last = ids[k];
			while (at < PAGES && m->at[at].id != want)
				at++;
			at = (at >> m->at[at].order << m->at[at].order) + (1ull << m->at[at].order);
		}
	EQUAL(first_of(m, at, to, (int)mark), 0);
}

static void compare(struct pc_inode *i, const struct model *m, u64 base)
{
	struct pc_violation v;
	if (!pc_index_check(i, &v))
		check_failed(__FILE__, __LINE__, v.text, 0, 0);
	for (u64 k = 0; k < PAGES; k++) {
		EQUAL(pc_index_lookup(i, base + k), m->at[k].id);
		for (int mark = 0; mark < PC_MARKS && k % 7 == 0; mark++)
			EQUAL(pc_index_marked(i, base + k, (enum pc_mark)mark),
			      m->at[k].id ? m->at[k].marks >> mark & 1 : 0);
	}
	for (int k = 0; k < 200; k++) {
		u64 from = draw(PAGES), to = from + draw(PAGES - from) + 1;
		int mark = (int)draw(PC_MARKS + 1) - 1;
		u32 got = mark < 0 ? pc_index_next(i, base + from, base + to)
				   : pc_index_next_marked(i, base + from, base + to, (enum pc_mark)mark, NULL);
		EQUAL(got, first_of(m, from, to, mark));
		if (mark >= 0)
			compare_walks(i, m, base, from, to, (enum pc_mark)mark);
	}
}

static void set_all(struct model *m, u64 index, u32 order, u32 id, u8 marks)
{
	for (u64 k = index; k < index + (1u << order); k++) {
		m->at[k].id = id;
		m->at[k].order = (u8)order;
		m->at[k].marks = marks;
	}
}

/* Erase a folio, whose marks have to be removed first. */
static void erase(struct pc_inode *i, struct model *m, u64 base, u64 index)
{
	u32 order = m->at[index].order;
	for (int mark = 0; mark < PC_MARKS; mark++)
		if (m->at[index].marks >> mark & 1)
			pc_index_mark(i, base + index, order, (enum pc_mark)mark, false);
	pc_index_erase(i, base + index, order);
	set_all(m, index, order, 0, 0);
}

static bool taken(const struct model *m, u64 index, u32 order)
{
	for (u64 k = index; k < index + (1u << order); k++)
		if (m->at[k].id)
			return true;
	return false;
}

static void random_use(u64 base, u32 steps)
{
	static struct model m;
	memset(&m, 0, sizeof(m));
	rig_open(&rig, 4 << 20, 2 << 20);
	struct pc_inode *i = file_open(&rig, 0, 0)->inode;
	for (u32 step = 0, id = 1; step < steps; step++) {
		u32 order = draw(4) ? (u32)draw(3) : (u32)draw(PC_ORDERS);
		u64 index = draw(PAGES) >> order << order;
		pc_inode_leaf_lock(i);
		EQUAL(pc_index_empty(i, base + index, order), !taken(&m, index, order));
		if (draw(100) < 55) {
			int err = pc_index_insert(i, base + index, order, id);
			EQUAL(err, (u64)(taken(&m, index, order) ? -EEXIST : 0));
			if (!err)
				set_all(&m, index, order, id++, 0);
		} else if (m.at[index].id) {
			order = m.at[index].order;
			index = index >> order << order;
			u8 marks = m.at[index].marks;
			if (draw(3) == 0) {
				erase(i, &m, base, index);
			} else {
				u32 mark = (u32)draw(PC_MARKS);
				bool set = draw(2);
				pc_index_mark(i, base + index, order, (enum pc_mark)mark, set);
				set_all(&m, index, order, m.at[index].id,
					(u8)(set ? marks | 1 << mark : marks & ~(1 << mark)));
			}
		}
		if (step % (steps / 20) == 0)
			compare(i, &m, base);
		pc_inode_leaf_unlock(i);
	}
	pc_inode_leaf_lock(i);
	compare(i, &m, base);
	for (u64 k = 0; k < PAGES; k++)
		if (m.at[k].id)
			erase(i, &m, base, k);
	EQUAL(atomic_load(&i->root), 0);
	pc_inode_leaf_unlock(i);
}

TEST(check_random_use_matches_an_array)
{
	random_use(0, 40000);
	random_use((1ull << 51) - PAGES, 8000); /* far offsets */
	random_use((1ull << 33) - PAGES / 2, 8000); /* across a boundary of high levels */
}

TEST(check_sparse_pages_up_to_the_last_are_found_in_order)
{
	enum { NR = 54 };
	u64 pages[NR] = {0}, last = UINT64_MAX >> 12;
	rig_open(&rig, 4 << 20, 2 << 20);
	struct pc_inode *i = file_open(&rig, 0, 0)->inode;
	pc_inode_leaf_lock(i);
	for (u32 k = NR; k-- > 0;) {
		pages[k] = k == NR - 1 ? last : k ? 1ull << (k - 1) : 0;
		EQUAL(pc_index_insert(i, pages[k], 0, k + 1), 0);
	}
	for (u32 k = 0; k < NR; k++) {
		u64 from = k ? pages[k - 1] + 1 : 0;
		EQUAL(pc_index_next(i, from, last + 1), k + 1);
		EQUAL(pc_index_next(i, from, pages[k]), 0);
		EQUAL(pc_index_lookup(i, pages[k]), k + 1);
		pc_index_mark(i, pages[k], 0, PC_MARK_DIRTY, true);
		EQUAL(pc_index_next_marked(i, 0, last + 1, PC_MARK_DIRTY, NULL), k + 1);
		pc_index_mark(i, pages[k], 0, PC_MARK_DIRTY, false);
	}
	for (u32 k = 0; k < NR; k++)
		pc_index_erase(i, pages[k], 0);
	EQUAL(atomic_load(&i->root), 0);
	pc_inode_leaf_unlock(i);
}

/* Whether any of 256 pages is marked. */
static bool any_marked(const struct pc_inode *i, u64 from, u32 *most)
{
	u32 seen = 0;
	bool found = pc_index_next_marked(i, from, from + 256, PC_MARK_WRITEBACK, &seen);
	*most = pc_max(*most, seen);
	return found;
}

/* T-12: the maximum number of nodes visited by "is anything of this MiB in flight?", aligned and not, with every
 * stride-th page in flight. */
static void visits(u32 pages, u32 stride, u32 *aligned, u32 *any)
{
	rig_open(&rig, 4 << 20, 2 << 20);
	struct pc_inode *i = file_open(&rig, 0, 0)->inode;
	pc_inode_leaf_lock(i);
	for (u32 k = 0; k < pages; k++) {
		EQUAL(pc_index_insert(i, k, 0, k + 1), 0);
		if (k % stride == stride - 1)
			pc_index_mark(i, k, 0, PC_MARK_WRITEBACK, true);
	}
	*aligned = *any = 0;
	for (u32 k = 0; k + 256 <= pages; k += pages / 300 + 1) {
		u32 at = k / 256 * 256;
		EQUAL(any_marked(i, at, aligned), at % stride + 256 >= stride);
		any_marked(i, k, any);
	}
	for (u32 k = 0; k < pages; k++) {
		if (k % stride == stride - 1)
			pc_index_mark(i, k, 0, PC_MARK_WRITEBACK, false);
		pc_index_erase(i, k, 0);
	}
	pc_inode_leaf_unlock(i);
}

TEST(check_a_range_question_visits_a_node_per_level)
{
	u32 strides[] = {1, 3, 64, 1000, 100000}, aligned, any;
	for (u32 k = 0; k < 5; k++) {
		visits(1000, strides[k], &aligned, &any);
		CHECK(aligned <= 2 + 1 && any <= 2 * 3);
		visits(k == 0 || k == 3 ? 1000000 : 100000, strides[k], &aligned, &any);
		CHECK(aligned <= 3 + 1 && any <= 2 * 4);
	}
}

/* The pages hold nothing but their place: the arena's memory is never touched, so a million costs little. */
static u64 metadata_per_page_x100(u64 pages, u32 order)
{
	rig_open(&rig, pages * PAGE + (64 << 20), 2 << 20);
	pc_cache_configure(rig.cache, pages, pages, pages, false);
	struct file *f = file_open(&rig, 0, 0);
	pc_set_size(f->inode, pages * PAGE);
	pc_set_remote_size(f->inode, pages * PAGE);
	for (u64 k = 0; k < pages; k += 1ull << order) {
		struct pc_folio *o;
		EQUAL(pc_folio_create(f->inode, k, order, 0, 0, &o), 0);
		EQUAL(pc_folio_order(o), order);
		pc_inode_leaf_lock(f->inode);
		CHECK(pc_valid_add(rig.cache, o, 0, pc_folio_bytes(rig.cache, o)));
		pc_folio_ext_drop(f->inode, o);
		pc_folio_unlock(rig.cache, o);
		pc_inode_leaf_unlock(f->inode);
	}
	EQUAL(cache_usage().exts, 0);
	return cache_usage().metadata_bytes * 100 / pages;
}

/* T-58: at most 96 bytes for a page of 4 KiB. */
TEST(check_metadata_of_a_million_pages_stays_small)
{
	u64 small = metadata_per_page_x100(1000000, 0), large = metadata_per_page_x100(1000000 / 16 * 16, 4);
	CHECK(small <= 96 * 100);
	CHECK(large <= 8 * 100);
}
