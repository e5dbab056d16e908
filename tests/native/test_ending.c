/* The end of a cache: when its memory is unmapped, and the answers that later callers get. */
#include "rig.h"

static struct rig rig;
static struct file *file;

static void start(u64 size)
{
	rig_open(&rig, 4 << 20, 64 << 10);
	file = file_open(&rig, size, size);
	u8 *bytes = malloc(size);
	EQUAL(file_read(file, 0, bytes, size), size);
	free(bytes);
}

static void check_a_closed_cache_hands_nothing_out_and_is_empty(void)
{
	u8 bytes[100];
	struct pc_need need;
	struct pc_request *r;
	start(1 << 20);
	pc_cache_close(rig.cache);
	EQUAL(rig.cache->arena.reserved, 4 << 20);
	CHECK(rig.cache->arena.frames > 0);
	SOUND(&rig);
	EQUAL(file_read(file, 5, bytes, 100), 100); /* not released: cached bytes can be read */
	pc_cache_release(rig.cache);
	EQUAL(rig.cache->arena.frames, 0);
	EQUAL(rig.cache->arena.reserved, 0);
	SOUND(&rig);
	EQUAL(pc_read(file->inode, 5, bytes, 100, &need), 0);
	EQUAL(need.kind, PC_NEED_FILL);
	EQUAL(pc_fill_begin(file->inode, 5, 100, &need, &r), -ENOMEM);
	EQUAL(pc_write(file->inode, 5, bytes, 100, &need), 0);
	EQUAL(need.kind, PC_NEED_ROOM);
	EQUAL(pc_cache_resize(rig.cache, 8 << 20), -EINVAL);
	EQUAL(pc_drop_clean(file->inode, 0, ALL), 0);
	pc_cache_close(rig.cache);
	pc_cache_release(rig.cache);
	rig_close(&rig);
}

static void check_a_pin_keeps_the_frames_and_the_last_one_lets_them_go(void)
{
	struct pc_pin pins[2];
	struct pc_need need;
	start(1 << 20);
	for (u32 k = 0; k < 2; k++)
		EQUAL(pc_pin(file->inode, 100 * PAGE, 10, false, &pins[k], &need), 0);
	pc_cache_close(rig.cache);
	pc_cache_release(rig.cache);
	CHECK(rig.cache->arena.frames > 0);
	EQUAL(pins[1].memory[3], first_byte(100 * PAGE + 3));
	pc_unpin(rig.cache, &pins[0]);
	pc_cache_release(rig.cache);
	EQUAL(pins[1].memory[3], first_byte(100 * PAGE + 3));
	pc_unpin(rig.cache, &pins[1]);
	pc_cache_release(rig.cache);
	EQUAL(rig.cache->arena.frames, 0);
	rig_close(&rig);
}

static void check_a_running_call_and_a_copy_keep_the_frames(void)
{
	struct pc_need need;
	struct pc_request *r;
	start(1 << 20);
	pc_drop_clean(file->inode, 0, ALL);
	EQUAL(pc_fill_begin(file->inode, 0, PAGE, &need, &r), 0);
	pc_cache_close(rig.cache);
	pc_cache_release(rig.cache);
	EQUAL(run_fill(file, r), 0);
	CHECK(rig.cache->arena.frames > 0);
	atomic_fetch_add(&rig.cache->copies, 1);
	pc_cache_release(rig.cache);
	CHECK(rig.cache->arena.frames > 0);
	atomic_fetch_sub(&rig.cache->copies, 1);
	pc_cache_release(rig.cache);
	EQUAL(rig.cache->arena.frames, 0);
	rig_close(&rig);
}

static void check_ids_of_one_extension_class_can_be_read_in_the_others(void)
{
	start(1 << 20);
	u32 fresh = 1;
	for (u32 k = 0; k < PC_EXT_CLASSES; k++)
		fresh = rig.cache->exts[k].fresh > fresh ? (u32)rig.cache->exts[k].fresh : fresh;
	pc_cache_close(rig.cache);
	for (u32 k = 0; k < PC_EXT_CLASSES; k++) {
		CHECK(rig.cache->exts[k].reserved < 64 << 20);
		for (u32 id = 0; id < fresh; id++)
			CHECK(((volatile u8 *)pc_pool_at(&rig.cache->exts[k], id))[rig.cache->exts[k].size - 1] < 255);
	}
	rig_close(&rig);
}

int main(void)
{
	RUN(check_a_closed_cache_hands_nothing_out_and_is_empty);
	RUN(check_a_pin_keeps_the_frames_and_the_last_one_lets_them_go);
	RUN(check_a_running_call_and_a_copy_keep_the_frames);
	RUN(check_ids_of_one_extension_class_can_be_read_in_the_others);
	return 0;
}
