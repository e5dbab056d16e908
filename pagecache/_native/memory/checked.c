/*
 * checked.c - bytes with checksums, as a disk tier keeps them: *extents*, each a range of one object in blocks.
 *
 *   |     4096 bytes     |crc|     4096 bytes     |crc|  the rest  |crc|        crc: 4 bytes, little endian
 *
 * A checksum is CRC-32C (Castagnoli; the instruction of the processor where it has one) over the id of the copy that the extent
 * belongs to, the block's offset in the object, and the data. So a block that was lost, torn, damaged, or written for other bytes is never taken for the wanted one.
 * A read goes straight into the caller's memory, checksums aside. Three checksums are computed side by side: the instruction needs
 * three cycles, and one can begin in each.
 *
 * No locks, no state but the tables of the fallback.
 */
#include "memory/memory.h"
#include "pagecache.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BLOCK = 4096, STRIDE = BLOCK + 4, BATCH = 256, LANES = 3, WINDOW = 1 << 18, SECTOR = 4096 };

/* ---------------------------------------------------------------- CRC-32C */

static u32 table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
	for (u32 k = 0; k < 256; k++) {
		u32 crc = k;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78 : 0);
		table[0][k] = crc;
	}
	for (u32 k = 0; k < 256; k++)
		for (int t = 1; t < 8; t++)
			table[t][k] = table[t - 1][k] >> 8 ^ table[0][table[t - 1][k] & 255];
}

static u64 word_at(const u8 *p)
{
	u64 word;
	memcpy(&word, p, sizeof(word));
	return word;
}

static u32 by_table(u32 crc, const u8 *p, size_t n)
{
	pthread_once(&table_once, make_table);
	for (; n >= 8; p += 8, n -= 8) {
		u64 x = word_at(p) ^ crc;
		crc = 0;
		for (int t = 0; t < 8; t++)
			crc ^= table[7 - t][x >> 8 * t & 255];
	}
	while (n--)
		crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
	return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>
#define HARDWARE            __attribute__((target("sse4.2")))
#define has_hardware()      __builtin_cpu_supports("sse4.2")
#define crc_word(crc, word) ((u32)_mm_crc32_u64(crc, word))
#define crc_byte(crc, byte) _mm_crc32_u8(crc, byte)
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define HARDWARE
#define has_hardware()      true
#define crc_word(crc, word) __crc32cd(crc, word)
#define crc_byte(crc, byte) __crc32cb(crc, byte)
#endif

#ifdef HARDWARE
HARDWARE static u32 by_instruction(u32 crc, const u8 *p, size_t n)
{
	for (; n >= 8; p += 8, n -= 8)
		crc = crc_word(crc, word_at(p));
	while (n--)
		crc = crc_byte(crc, *p++);
	return crc;
}

HARDWARE static void lanes_by_instruction(u32 crc[LANES], const u8 *const p[LANES], size_t n)
{
	u32 a = crc[0], b = crc[1], c = crc[2];
	for (size_t k = 0; k < n; k += 8) { /* n is BLOCK */
		a = crc_word(a, word_at(p[0] + k));
		b = crc_word(b, word_at(p[1] + k));
		c = crc_word(c, word_at(p[2] + k));
	}
	crc[0] = a, crc[1] = b, crc[2] = c;
}
#else
#define has_hardware()                  false
#define by_instruction                  by_table
#define lanes_by_instruction(crc, p, n) ((void)(p))
#endif

static u32 crc_of(u32 crc, const u8 *p, size_t n)
{
	return has_hardware() ? by_instruction(crc, p, n) : by_table(crc, p, n);
}

static u32 seed_of(u64 id, u64 offset)
{
	u64 words[2] = {id, offset};
	return crc_of(~0u, (const u8 *)words, sizeof(words));
}

static void store_crc(u8 *p, u32 crc)
{
	crc = ~crc;
	for (int k = 0; k < 4; k++)
		p[k] = (u8)(crc >> 8 * k);
}

static bool fits(const u8 *p, u32 crc)
{
	u8 wanted[4];
	store_crc(wanted, crc);
	return !memcmp(p, wanted, 4);
}

/* ---------------------------------------------------------------- packing */

struct cursor {
	const struct pc_part *parts;
	size_t n, part;
	u64 at;
};

/* Bytes that follow in one piece of memory. */
static u64 room_at(struct cursor *c)
{
	while (c->part < c->n && c->at == c->parts[c->part].len) {
		c->part++;
		c->at = 0;
	}
	return c->part < c->n ? c->parts[c->part].len - c->at : 0;
}

static u8 *memory_at(const struct cursor *c)
{
	return (u8 *)c->parts[c->part].memory + c->at;
}

/* Copy bytes between the parts and @block. */
static void copy(struct cursor *c, u8 *block, u64 len, bool out)
{
	for (u64 done = 0, n; done < len; done += n) {
		n = pc_min(room_at(c), len - done);
		if (out)
			memcpy(memory_at(c), block + done, n);
		else
			memcpy(block + done, memory_at(c), n);
		c->at += n;
	}
}

/* The bytes that an extent of @len bytes takes. */
uint64_t pc_checked_size(uint64_t len)
{
	return len + (len + BLOCK - 1) / BLOCK * 4;
}

/* Copy the first @len bytes of the parts to @out, with checksums. @id: of the copy; @offset: of the first byte in the object. */
void pc_checked_pack(uint8_t *out, const struct pc_part *parts, size_t n, uint64_t len, uint64_t id, uint64_t offset)
{
	struct cursor c = {parts, n, 0, 0};
	u64 done = 0;
	for (; has_hardware() && len - done >= (u64)LANES * BLOCK; done += (u64)LANES * BLOCK, out += LANES * STRIDE) {
		u32 crc[LANES];
		const u8 *p[LANES];
		for (int k = 0; k < LANES; k++) {
			crc[k] = seed_of(id, offset + done + (u64)k * BLOCK);
			copy(&c, out + k * STRIDE, BLOCK, false);
			p[k] = out + k * STRIDE;
		}
		lanes_by_instruction(crc, p, BLOCK);
		for (int k = 0; k < LANES; k++)
			store_crc(out + k * STRIDE + BLOCK, crc[k]);
	}
	for (u64 size; done < len; done += size, out += size + 4) {
		size = pc_min(len - done, (u64)BLOCK);
		copy(&c, out, size, false);
		store_crc(out + size, crc_of(seed_of(id, offset + done), out, size));
	}
}

/* ---------------------------------------------------------------- reading */

struct extent {
	int fd;
	u64 pos, len, id, offset; /* of the first block in the file; bytes; copy; of the first byte in the object */
};

/* Read all of the pieces. Return: 0, -errno, -EILSEQ at the end of the file. */
static int read_all(int fd, struct iovec *iov, int n, u64 pos)
{
	while (n) {
		ssize_t got = preadv(fd, iov, n, (off_t)pos);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EILSEQ;
		pos += (u64)got;
		for (; n && (size_t)got >= iov->iov_len; iov++, n--)
			got -= (ssize_t)iov->iov_len;
		if (n) {
			iov->iov_base = (u8 *)iov->iov_base + got;
			iov->iov_len -= (size_t)got;
		}
	}
	return 0;
}

/* Read whole blocks straight into the parts: those from @skip on that lie in one piece each, at most BATCH. Return: bytes; 0: the next block does
 * not; -errno. */
static i64 read_blocks(const struct extent *e, u64 skip, u64 end, struct cursor *c)
{
	struct iovec iov[2 * BATCH];
	u8 sums[BATCH][4], *at[BATCH];
	u64 size[BATCH], done = skip;
	int n = 0, err;
	for (; n < BATCH && done < end; n++) {
		size[n] = pc_min(e->len - done, (u64)BLOCK);
		if (done % BLOCK || end - done < size[n] || room_at(c) < size[n])
			break;
		at[n] = memory_at(c);
		iov[2 * n] = (struct iovec){at[n], size[n]};
		iov[2 * n + 1] = (struct iovec){sums[n], 4};
		c->at += size[n];
		done += size[n];
	}
	if (!n)
		return 0;
	if ((err = read_all(e->fd, iov, 2 * n, e->pos + skip / BLOCK * STRIDE)))
		return err;
	for (int k = 0; k < n;) {
		u64 offset = e->offset + skip + (u64)k * BLOCK;
		if (n - k >= LANES && size[k + LANES - 1] == BLOCK && has_hardware()) {
			u32 crc[LANES] = {seed_of(e->id, offset), seed_of(e->id, offset + BLOCK),
					  seed_of(e->id, offset + 2 * BLOCK)};
			const u8 *const p[LANES] = {at[k], at[k + 1], at[k + 2]};
			lanes_by_instruction(crc, p, BLOCK);
			for (int lane = 0; lane < LANES; lane++, k++)
				if (!fits(sums[k], crc[lane]))
					return -EILSEQ;
		} else if (!fits(sums[k], crc_of(seed_of(e->id, offset), at[k], size[k]))) {
			return -EILSEQ;
		} else {
			k++;
		}
	}
	return (i64)(done - skip);
}

/* A part of the file that was read into aligned memory: for blocks of which a part is wanted, or that go to several pieces, and for all with O_DIRECT. */
struct window {
	u8 *memory;
	u64 begin, end;
};

/* Have [pos, pos + len) of the file in the window; @upto: what will be wanted next. Return: 0, -errno. */
static int slide(struct window *w, int fd, u64 pos, u64 len, u64 upto)
{
	if (pos >= w->begin && pos + len <= w->end)
		return 0;
	w->begin = pos / SECTOR * SECTOR;
	w->end = w->begin;
	u64 wanted = pc_min((pc_max(upto, pos + len) - w->begin + SECTOR - 1) / SECTOR * SECTOR, (u64)WINDOW);
	while (w->end < pos + len) {
		ssize_t got = pread(fd, w->memory + (w->end - w->begin), wanted - (w->end - w->begin), (off_t)w->end);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EILSEQ;
		w->end += (u64)got;
	}
	return 0;
}

static i64 read_through(const struct extent *e, u64 skip, u64 end, struct cursor *c, struct window *w)
{
	u64 block = skip / BLOCK, size = pc_min(e->len - block * BLOCK, (u64)BLOCK), from = skip % BLOCK;
	u64 pos = e->pos + block * STRIDE, take = pc_min(size - from, end - skip);
	if (!w->memory && posix_memalign((void **)&w->memory, SECTOR, WINDOW))
		return -ENOMEM;
	int err = slide(w, e->fd, pos, size + 4, e->pos + (end + BLOCK - 1) / BLOCK * STRIDE);
	if (err)
		return err;
	u8 *p = w->memory + (pos - w->begin);
	if (!fits(p + size, crc_of(seed_of(e->id, e->offset + block * BLOCK), p, size)))
		return -EILSEQ;
	copy(c, p + from, take, true);
	return (i64)take;
}

/* Read bytes of an extent of @len bytes at @pos of a file into the parts: those from @skip on. @aligned: the file is open with
 * O_DIRECT. Return: bytes; -EILSEQ: a block is not what was written, and the memory of the parts is undefined; -errno. */
int64_t pc_checked_read(int fd, uint64_t pos, uint64_t len, uint64_t id, uint64_t offset, uint64_t skip,
			const struct pc_part *parts, size_t n, bool aligned)
{
	struct extent e = {fd, pos, len, id, offset};
	struct cursor c = {parts, n, 0, 0};
	struct window w = {NULL, 0, 0};
	u64 end = skip, begin = skip;
	i64 got = 0;
	for (size_t k = 0; k < n; k++)
		end += parts[k].len;
	end = pc_min(end, len);
	while (skip < end) {
		got = aligned ? 0 : read_blocks(&e, skip, end, &c);
		if (!got)
			got = read_through(&e, skip, end, &c, &w);
		if (got < 0)
			break;
		skip += (u64)got;
	}
	free(w.memory);
	return got < 0 ? got : (i64)(skip - begin);
}
