/* Bytes with checksums: what was packed is read, in any pieces and from any byte on, and nothing else is. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rig.h"

/* Its own functions, under other names than those of the core. */
#define pc_checked_size own_size
#define pc_checked_pack own_pack
#define pc_checked_read own_read
#include "memory/checked.c"
#undef pc_checked_size
#undef pc_checked_pack
#undef pc_checked_read

enum { LEN = 50000, ID = 7, OFFSET = 12288, HEAD = 100 };

static u8 content[LEN];

static u8 byte_of(size_t k)
{
	return (u8)(k * 31 + k / 256 + 3);
}

/* A file with one extent behind HEAD bytes. */
static int packed(u64 len)
{
	static u8 out[LEN * 2];
	for (size_t k = 0; k < LEN; k++)
		content[k] = byte_of(k);
	struct pc_part parts[] = {{content, pc_min(len, 5000), 0, 0}, {content + 5000, LEN - 5000, 0, 0}};
	pc_checked_pack(out, parts, 2, len, ID, OFFSET);
	int fd = memfd_create("checked", 0);
	EQUAL(pwrite(fd, out, pc_checked_size(len), HEAD), (i64)pc_checked_size(len));
	EQUAL(ftruncate(fd, 2 * LEN), 0);
	return fd;
}

static void flip(int fd, u64 pos)
{
	u8 byte;
	EQUAL(pread(fd, &byte, 1, (off_t)pos), 1);
	byte ^= 16;
	EQUAL(pwrite(fd, &byte, 1, (off_t)pos), 1);
}

TEST(check_the_checksum_is_crc32c_with_and_without_the_instruction)
{
	const u8 *digits = (const u8 *)"123456789";
	EQUAL(~crc_of(~0u, digits, 9), 0xE3069283);
	EQUAL(~crc_of(crc_of(~0u, digits, 4), digits + 4, 5), 0xE3069283);
	for (size_t n = 0; n < 100; n++)
		EQUAL(crc_of(5, content + n, n), by_table(5, content + n, n));
}

TEST(check_any_piece_is_read_into_any_pieces_of_memory)
{
	static u8 memory[LEN];
	static const u64 lengths[] = {1, 4095, 4096, 4097, 12288, 16384, LEN};
	for (size_t l = 0; l < sizeof(lengths) / sizeof(*lengths); l++) {
		int fd = packed(lengths[l]);
		for (int round = 0; round < 300; round++) {
			struct pc_part parts[4];
			u64 skip = draw(lengths[l]), at = 0, wanted;
			if (draw(2))
				skip = skip / 4096 * 4096;
			for (int k = 0; k < 4; k++) {
				parts[k] = (struct pc_part){memory + at, draw(2) ? 4096 * draw(3) : draw(9000), 0, 0};
				at += parts[k].len;
			}
			wanted = pc_min(at, lengths[l] - skip);
			memset(memory, 0, LEN);
			EQUAL(pc_checked_read(fd, HEAD, lengths[l], ID, OFFSET, skip, parts, 4, draw(2)), (i64)wanted);
			for (u64 k = 0; k < LEN; k++)
				EQUAL(memory[k], k < wanted ? byte_of(skip + k) : 0);
		}
		close(fd);
	}
}

TEST(check_a_damaged_block_is_refused_and_others_are_not)
{
	static u8 memory[LEN];
	struct pc_part one = {memory, 4096, 0, 0}, all = {memory, LEN, 0, 0};
	for (u64 block = 0; block < (LEN + 4095) / 4096; block++) {
		for (int edge = 0; edge < 2; edge++) { /* of its data, of its checksum */
			int fd = packed(LEN);
			u64 size = pc_min(LEN - block * 4096, 4096ull);
			flip(fd, HEAD + block * 4100 + (edge ? size : draw(size)));
			for (u64 k = 0; k * 4096 < LEN; k++) {
				i64 got = pc_checked_read(fd, HEAD, LEN, ID, OFFSET, k * 4096, &one, 1, edge);
				EQUAL(got, k == block ? -EILSEQ : (i64)pc_min(LEN - k * 4096, 4096ull));
			}
			EQUAL(pc_checked_read(fd, HEAD, LEN, ID, OFFSET, 0, &all, 1, false), -EILSEQ);
			close(fd);
		}
	}
}

TEST(check_bytes_of_another_copy_or_place_are_refused)
{
	static u8 memory[LEN];
	struct pc_part all = {memory, LEN, 0, 0};
	int fd = packed(LEN), none = memfd_create("zeros", 0);
	EQUAL(ftruncate(none, 2 * LEN), 0);
	EQUAL(pc_checked_read(fd, HEAD, LEN, ID + 1, OFFSET, 0, &all, 1, false), -EILSEQ);
	EQUAL(pc_checked_read(fd, HEAD, LEN, ID, OFFSET + 4096, 0, &all, 1, false), -EILSEQ);
	EQUAL(pc_checked_read(fd, HEAD + 1, LEN, ID, OFFSET, 0, &all, 1, false), -EILSEQ);
	EQUAL(pc_checked_read(none, HEAD, LEN, ID, OFFSET, 0, &all, 1, false), -EILSEQ); /* it was never written */
	EQUAL(ftruncate(fd, 20000), 0);
	EQUAL(pc_checked_read(fd, HEAD, LEN, ID, OFFSET, 0, &all, 1, false), -EILSEQ);
	EQUAL(pc_checked_read(-1, HEAD, LEN, ID, OFFSET, 0, &all, 1, false), -EBADF);
	close(fd), close(none);
}
