/* The register of waits: one record for the length of each sleep, read whole or not at all, by any reader [I-16,
 * T-80]. */
#include "rig.h"

static u32 nr_waits(void)
{
	u32 found = 0, bound = pc_waits_bound(rig.cache);
	struct pc_wait w;
	for (u32 id = 1; id < bound; id++)
		found += pc_wait_read(rig.cache, id, &w) != 0;
	return found;
}

TEST(check_a_record_stands_while_its_waiter_waits)
{
	struct pc_wait one = wait_of(100), two = wait_of(50), seen;
	rig_open(&rig, 1 << 20, PAGE);
	EQUAL(nr_waits(), 0);
	u32 first = pc_wait_begin(rig.cache, &one), second = pc_wait_begin(rig.cache, &two);
	CHECK(first && second && first != second);
	EQUAL(nr_waits(), 2);
	u64 number = pc_wait_read(rig.cache, first, &seen);
	check_whole(&seen);
	EQUAL(seen.since_ns, 100);
	pc_wait_end(rig.cache, second);
	EQUAL(nr_waits(), 1);
	pc_wait_end(rig.cache, first);
	pc_wait_end(rig.cache, 0);
	EQUAL(pc_wait_read(rig.cache, first, &seen), 0);
	EQUAL(nr_waits(), 0);
	u32 again = pc_wait_begin(rig.cache, &one);
	CHECK(pc_wait_read(rig.cache, again, &seen) != number); /* another wait, in the place of one that is over */
	second = pc_wait_begin(rig.cache, &two);
	pc_cache_close(rig.cache); /* from now on it has no place for more */
	EQUAL(nr_waits(), 2);
	EQUAL(pc_wait_begin(rig.cache, &one), 0);
	pc_wait_end(rig.cache, again);
	pc_wait_end(rig.cache, second);
	EQUAL(rig.cache->waits.used, 0);
}

/* check() finds a leftover record: the lock that it names has no holder. */
TEST(check_a_record_that_was_left_is_found)
{
	struct pc_violation v;
	rig_open(&rig, 1 << 20, PAGE);
	struct file *file = file_open(&rig, PAGE, PAGE);
	static const u32 kinds[] = {PC_WAIT_LOCK, PC_WAIT_LOCK_SHARED, PC_WAIT_TOKEN};
	for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
		struct pc_wait w = {.kind = kinds[k], .since_ns = 1, .inode = file->inode->id};
		u32 id = pc_wait_begin(rig.cache, &w);
		EQUAL(pc_check(rig.cache, &v), 1);
		CHECK(strcmp(v.invariant, "I-16") == 0);
		pc_wait_end(rig.cache, id);
		SOUND(&rig);
	}
	CHECK(pc_inode_lock_try(file->inode, PC_EXCLUSIVE));
	struct pc_wait w = {.kind = PC_WAIT_LOCK, .since_ns = 1, .inode = file->inode->id};
	u32 id = pc_wait_begin(rig.cache, &w);
	SOUND(&rig);
	pc_wait_end(rig.cache, id);
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
}

/* Last of all: from here on this process is a child. */
TEST(check_a_child_sees_none_and_touches_none)
{
	struct pc_wait one = wait_of(1);
	rig_open(&rig, 1 << 20, PAGE);
	u32 id = pc_wait_begin(rig.cache, &one);
	pc_leaf_lock(&rig.cache->waits.lock, PC_LEVEL_FRAME); /* a thread of the parent held it */
	pc_forked();
	EQUAL(nr_waits(), 0);
	EQUAL(pc_wait_begin(rig.cache, &one), 0);
	pc_wait_end(rig.cache, id);
	rig.cache = NULL; /* the parent's to close */
}
