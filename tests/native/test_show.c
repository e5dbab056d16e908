/* Displayed values: one number of a file, lengths of queues, durations of calls. */
#include "rig.h"

static void start(void)
{
	open_one(8 << 20, PAGE, PAGE, PAGE, limits_wide());
}

/* A late call finds it empty: its struct goes to no other inode before it is freed. */
TEST(check_of_an_inode_that_is_gone_nothing_is_shown)
{
	start();
	put(0, PAGE, 1);
	EQUAL(NUMBER(file->inode, DIRTY), PAGE);
	EQUAL(file_sync(file), 0);
	EQUAL(NUMBER(file->inode, CACHED), PAGE);
	EQUAL(pc_inode_destroy(file->inode), 0);
	EQUAL(pc_inode_destroy(file->inode), 0);
	struct pc_limits limits = limits_wide();
	struct pc_inode *next;
	EQUAL(pc_inode_create(rig.volume, PAGE, &limits, &next), 0);
	pc_inode_set_unused(file->inode, true);
	EQUAL(pc_cache_hollow(rig.cache), 0);
	pc_commit_start(file->inode, 0);
	pc_settle_start(file->inode);
	EQUAL(NUMBER(file->inode, STORAGE_BUSY), 0);
	EQUAL(NUMBER(file->inode, SIZE), 0);
	EQUAL(NUMBER(file->inode, CACHED), 0);
	EQUAL(NUMBER(next, SIZE), PAGE);
	SOUND(&rig);
	EQUAL(inode_free(next), 0);
	EQUAL(inode_free(file->inode), 0);
	file_forget(file);
	rig.nr_files = 0;
}

TEST(check_the_queue_is_counted_by_class)
{
	u32 waiting[PC_WORK_CLASSES];
	start();
	put(0, PAGE, 1);
	pc_job_push(rig.volume, PC_WORK_NAMES);
	pc_flush_start(file->inode, UINT64_MAX >> 16, 0, UINT64_MAX);
	pc_show_queue(rig.volume, waiting);
	for (u32 k = 0; k < PC_WORK_CLASSES; k++)
		EQUAL(waiting[k], k == PC_WORK_NAMES || k == PC_WORK_INTEGRITY);
	next_work(PC_WORK_JOB);
}

static void count(u64 ns, u32 k)
{
	u64 before[PC_LATENCY_BOUNDS + 1], after[PC_LATENCY_BOUNDS + 1];
	u64 sum = pc_latency_get(rig.volume, PC_TIMED_WRITE, before);
	pc_latency_add(rig.volume, PC_TIMED_WRITE, ns);
	EQUAL(pc_latency_get(rig.volume, PC_TIMED_WRITE, after), sum + ns);
	for (u32 j = 0; j <= PC_LATENCY_BOUNDS; j++)
		EQUAL(after[j], before[j] + (j == k));
}

TEST(check_a_duration_is_counted_at_the_first_bound_that_it_did_not_exceed)
{
	u64 counts[PC_LATENCY_BOUNDS + 1];
	start();
	count(0, 0);
	for (u32 k = 0; k < PC_LATENCY_BOUNDS; k++) {
		u64 bound = 1000ull << k;
		count(bound - 1, k);
		count(bound, k);
		count(bound + 1, k + 1);
	}
	count(UINT64_MAX / 4, PC_LATENCY_BOUNDS);
	EQUAL(pc_latency_get(rig.volume, PC_TIMED_READ, counts), 0);
}
