/*
 * names.c - system calls for the directory backend that `os` lacks. They run without the interpreter lock.
 *
 * A walk leads from an open directory to a place, and holds the directory of the place open. It follows no link: it stops
 * there, and at the ".." of a link's target, and `rest` is the text behind the stop.
 *
 *     "a//./b/x"   directory of a/b, name "x",  path "a/b/x",  parent "a/b", rest None
 *     "a/link/x"   directory of a,   name link, path "a/link", parent "a",   rest "x"
 *     "a/b/../x"   directory of a/b, name "..", path "a/b/..", parent "a/b", rest "/x"
 */
#include "types/types.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { EXCHANGES_MAX = 40, BLOCK = 512, SECOND = 1000000000 };

/* ---------------------------------------------------------------- the status of an object */

static PyTypeObject *status_type, *file_status_type; /* ObjectStat and FileStat of pagecache.objects */
static PyObject *zero;
/* All fields of a FileStat; those of an ObjectStat are the first ones. */
static const char *const field_names[] = {"size", "version",   "mtime",    "key",      "kind",     "mode",
					  "uid",  "gid",       "nlink",    "atime_ns", "mtime_ns", "ctime_ns",
					  "rdev", "allocated", "identity", "dirty",    "cached"};
enum { ALL_FIELDS = sizeof(field_names) / sizeof(*field_names), FIELDS = ALL_FIELDS - 2 };
static PyObject *fields[ALL_FIELDS]; /* the descriptors of their slots */
static descrgetfunc get_field;
static descrsetfunc set_field; /* past the class, which refuses changes */
static const char *const kind_names[16] = {[S_IFDIR >> 12] = "dir",  [S_IFLNK >> 12] = "symlink",
					   [S_IFIFO >> 12] = "fifo", [S_IFSOCK >> 12] = "socket",
					   [S_IFCHR >> 12] = "char", [S_IFBLK >> 12] = "block"};
static PyObject *kinds[16];

static PyObject *kind_of(const struct statx *s)
{
	return Py_NewRef(kinds[(s->stx_mode & S_IFMT) >> 12]);
}

/* Look up a name in a directory, and no link behind it; "": the object of the descriptor. Return: 0, -errno. */
static int look(int fd, const char *name, struct statx *found)
{
	int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
	return statx(fd, name, flags, STATX_BASIC_STATS | STATX_BTIME, found) ? -errno : 0;
}

/* Return nanoseconds since the epoch, also those of dates that 64 bits do not hold. */
static PyObject *nanoseconds(const struct statx_timestamp *t)
{
	char text[40];
	long long ns;
	if (!__builtin_mul_overflow(t->tv_sec, (long long)SECOND, &ns) && !__builtin_add_overflow(ns, t->tv_nsec, &ns))
		return PyLong_FromLongLong(ns);
	bool below = t->tv_sec < 0 && t->tv_nsec; /* digits of a negative number: -1.3 s is -2 s and 0.7 s */
	unsigned rest = below ? SECOND - t->tv_nsec : t->tv_nsec;
	snprintf(text, sizeof(text), "%lld%09u", (long long)t->tv_sec + below, rest);
	return PyLong_FromString(text, NULL, 10);
}

static PyObject *version_of(const struct statx_timestamp *t, PyObject *mtime_ns, unsigned long long size,
			    unsigned long long inode)
{
	char text[64];
	long long ns;
	if (__builtin_mul_overflow(t->tv_sec, (long long)SECOND, &ns) || __builtin_add_overflow(ns, t->tv_nsec, &ns))
		return PyUnicode_FromFormat("%S:%llu:%llu", mtime_ns, size, inode);
	int len = snprintf(text, sizeof(text), "%lld:%llu:%llu", ns, size, inode);
	return PyUnicode_FromStringAndSize(text, len);
}

/* Return an ObjectStat. The birth time in its identity tells the objects apart that have an inode number one after the
 * other, if the file system keeps it; otherwise it is 0. */
static PyObject *status_of(const struct statx *s, PyObject *key)
{
	bool device = S_ISCHR(s->stx_mode) || S_ISBLK(s->stx_mode);
	struct statx_timestamp birth = s->stx_mask & STATX_BTIME ? s->stx_btime : (struct statx_timestamp){0};
	PyObject *mtime_ns = nanoseconds(&s->stx_mtime);
	unsigned long long size = s->stx_size, inode = s->stx_ino;
	PyObject *birth_ns = nanoseconds(&birth);
	PyObject *device_id = PyLong_FromUnsignedLongLong(makedev(s->stx_dev_major, s->stx_dev_minor));
	PyObject *inode_id = PyLong_FromUnsignedLongLong(inode);
	PyObject *values[FIELDS] = {
		PyLong_FromUnsignedLongLong(size),
		mtime_ns ? version_of(&s->stx_mtime, mtime_ns, size, inode) : NULL,
		PyFloat_FromDouble((double)s->stx_mtime.tv_sec + 1e-9 * s->stx_mtime.tv_nsec),
		Py_NewRef(key),
		kind_of(s),
		PyLong_FromLong(s->stx_mode & ~S_IFMT),
		PyLong_FromUnsignedLong(s->stx_uid),
		PyLong_FromUnsignedLong(s->stx_gid),
		PyLong_FromUnsignedLong(s->stx_nlink),
		nanoseconds(&s->stx_atime),
		mtime_ns,
		nanoseconds(&s->stx_ctime),
		device ? PyLong_FromUnsignedLongLong(makedev(s->stx_rdev_major, s->stx_rdev_minor))
		       : Py_NewRef(Py_None),
		PyLong_FromUnsignedLongLong(s->stx_blocks * BLOCK),
		birth_ns && device_id && inode_id ? PyTuple_Pack(3, device_id, inode_id, birth_ns) : NULL,
	};
	PyObject *status = PyType_GenericAlloc(status_type, 0);
	for (int k = 0; k < FIELDS; k++) {
		if (status && (!values[k] || set_field(fields[k], status, values[k])))
			Py_CLEAR(status);
		Py_XDECREF(values[k]);
	}
	Py_XDECREF(birth_ns);
	Py_XDECREF(device_id);
	Py_XDECREF(inode_id);
	return status;
}

/* file_status(stat, cached): the FileStat of an object without local bytes. */
static PyObject *file_status(PyObject *module, PyObject *args)
{
	PyObject *stat, *bytes;
	if (!PyArg_ParseTuple(args, "O!O", status_type, &stat, &bytes))
		return NULL;
	PyObject *status = PyType_GenericAlloc(file_status_type, 0);
	for (int k = 0; k < FIELDS; k++) {
		PyObject *value = get_field(fields[k], stat, (PyObject *)Py_TYPE(stat));
		if (status && (!value || set_field(fields[k], status, value)))
			Py_CLEAR(status);
		Py_XDECREF(value);
	}
	if (status && (set_field(fields[FIELDS], status, zero) || set_field(fields[FIELDS + 1], status, bytes)))
		Py_CLEAR(status);
	return status;
}

/* Make a system call without the interpreter lock, again after each signal unless its handler raises. */
#define REPEATED(call)                                                                                                 \
	do {                                                                                                           \
		Py_BEGIN_ALLOW_THREADS call;                                                                           \
		Py_END_ALLOW_THREADS                                                                                   \
	} while (err == -EINTR && !PyErr_CheckSignals())

/* Set the exception of a failed call, unless a signal handler has raised. */
static PyObject *raise(int err, PyObject *key)
{
	errno = -err;
	return PyErr_Occurred() ? NULL : PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, key);
}

static PyObject *status(PyObject *module, PyObject *args)
{
	int fd, err;
	PyObject *name = NULL, *key = Py_None;
	struct statx found;
	if (!PyArg_ParseTuple(args, "i|O&O", &fd, PyUnicode_FSConverter, &name, &key))
		return NULL;
	const char *text = name ? PyBytes_AsString(name) : "";
	REPEATED(err = look(fd, text, &found));
	Py_XDECREF(name);
	return err ? raise(err, NULL) : status_of(&found, key);
}

/* ---------------------------------------------------------------- descriptors */

/* Close a descriptor. Return: 0, -errno. */
static int release(struct descriptor *d)
{
	int fd = __atomic_exchange_n(&d->fd, -1, __ATOMIC_RELAXED), err = 0; /* of two closes, one has it */
	if (fd >= 0 && d->is_path) {
		close(fd);
	} else if (fd >= 0) {
		Py_BEGIN_ALLOW_THREADS err = close(fd) ? -errno : 0;
		Py_END_ALLOW_THREADS
	}
	return err;
}

static PyObject *descriptor_close(PyObject *self, PyObject *unused)
{
	int err = release((struct descriptor *)self);
	return err ? raise(err, NULL) : Py_NewRef(Py_None);
}

static PyObject *descriptor_enter(PyObject *self, PyObject *unused)
{
	return Py_NewRef(self);
}

static void descriptor_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	release((struct descriptor *)self);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

/* Descriptor(directory, name, flags): open a name in an open directory. Subclasses may have two arguments more. */
PyObject *pc_fd_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	int directory, flags, err;
	PyObject *name, *more;
	if (!PyArg_ParseTuple(args, "iO&i|OO", &directory, PyUnicode_FSConverter, &name, &flags, &more, &more))
		return NULL;
	struct descriptor *d = (struct descriptor *)PyType_GenericAlloc(type, 0);
	const char *text = PyBytes_AsString(name);
	REPEATED(err = d && (d->fd = openat(directory, text, flags, 0666)) < 0 ? -errno : 0);
	Py_DECREF(name);
	if (err)
		Py_CLEAR(d);
	return err ? raise(err, PyTuple_GetItem(args, 1)) : (PyObject *)d;
}

/* ---------------------------------------------------------------- walks */

struct walk {
	int directory;    /* reached so far */
	bool owns;        /* it is not the root of the walk */
	const char *rest; /* of the text */
	char *path;       /* walked so far, with the name at its end: "a/b/x" */
	char *name;       /* in the directory; "": the root itself */
	bool stopped, exists;
	struct statx found; /* if it exists */
};

/* Go on to the directory with the current name, or stop at a link. Return: 0, -errno. */
static int enter(struct walk *w)
{
	for (int tries = 0; tries < EXCHANGES_MAX; tries++) {
		int fd = openat(w->directory, w->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0) {
			if (w->owns)
				close(w->directory);
			w->directory = fd;
			w->owns = true;
			return 0;
		}
		int err = errno == ENOTDIR || errno == ELOOP ? look(w->directory, w->name, &w->found) : -errno;
		if (err)
			return err;
		w->exists = w->stopped = S_ISLNK(w->found.stx_mode);
		if (w->stopped || !S_ISDIR(w->found.stx_mode))
			return w->stopped ? 0 : -ENOTDIR;
	} /* a directory has the name since: look again */
	return -ELOOP;
}

/* Walk the text, which is `rest`. `follow`: stop at a link at the end, too. Return: 0, -errno. */
static int walk(struct walk *w, bool follow)
{
	w->name = w->path;
	*w->name = '\0';
	w->stopped = w->exists = false;
	for (;;) {
		w->rest += strspn(w->rest, "/");
		size_t len = strcspn(w->rest, "/");
		if (!len)
			break;
		if (len == 1 && *w->rest == '.') {
			w->rest++;
			continue;
		}
		if (*w->name) {
			int err = enter(w);
			if (err || w->stopped)
				return err;
			w->name += strlen(w->name) + 1;
			w->name[-1] = '/';
		}
		memcpy(w->name, w->rest, len);
		w->name[len] = '\0';
		w->rest += len;
		if (!strcmp(w->name, "..")) {
			w->stopped = true;
			return 0;
		}
	}
	int err = look(w->directory, w->name, &w->found);
	w->exists = !err;
	w->stopped = w->exists && follow && S_ISLNK(w->found.stx_mode);
	return err == -ENOENT && *w->name ? 0 : err;
}

static PyTypeObject *place_type;
enum { KEY, PATH, PARENT, NAME, REST, PARTS };
struct place {
	struct descriptor directory;
	PyObject *parts[PARTS];
	struct statx found;
	bool exists;
};

static PyObject *place_found(PyObject *self, void *unused)
{
	struct place *p = (struct place *)self;
	return p->exists ? status_of(&p->found, Py_None) : Py_NewRef(Py_None);
}

static PyObject *place_kind(PyObject *self, void *unused)
{
	struct place *p = (struct place *)self;
	return p->exists ? kind_of(&p->found) : Py_NewRef(Py_None);
}

static void place_dealloc(PyObject *self)
{
	struct place *p = (struct place *)self;
	for (int k = 0; k < PARTS; k++)
		Py_XDECREF(p->parts[k]);
	descriptor_dealloc(self);
}

/* is_same(other): whether two names have one object. */
static PyObject *place_is_same(PyObject *self, PyObject *other)
{
	struct place *p = (struct place *)self, *q = (struct place *)other;
	if (!PyObject_TypeCheck(other, place_type))
		return PyErr_Format(PyExc_TypeError, "%R is not a Place", other);
	const struct statx *a = &p->found, *b = &q->found;
	bool birth = a->stx_btime.tv_sec == b->stx_btime.tv_sec && a->stx_btime.tv_nsec == b->stx_btime.tv_nsec;
	bool device = a->stx_dev_major == b->stx_dev_major && a->stx_dev_minor == b->stx_dev_minor;
	return PyBool_FromLong(p->exists && q->exists && device && a->stx_ino == b->stx_ino &&
			       (birth || !(a->stx_mask & b->stx_mask & STATX_BTIME)));
}

/* Walk from an open directory; the interpreter lock is free meanwhile. walk_ends() releases all of it. Return: 0, -errno. */
static int walk_from(struct walk *w, int root, PyObject *text, bool follow)
{
	int err;
	*w = (struct walk){.path = malloc((size_t)PyBytes_Size(text) + 1)};
	do {
		if (w->owns)
			close(w->directory);
		w->rest = PyBytes_AsString(text);
		w->directory = root;
		w->owns = false;
		err = w->path ? 0 : -ENOMEM;
		Py_BEGIN_ALLOW_THREADS err = err ? err : walk(w, follow);
		Py_END_ALLOW_THREADS
	} while (err == -EINTR && !PyErr_CheckSignals());
	return err;
}

static void walk_ends(struct walk *w)
{
	if (w->owns)
		close(w->directory);
	free(w->path);
}

/* found(root, text, follow, key): the status of what a walk from the open directory reaches; None: nothing; False: the walk has
 * stopped. Errors name the key. */
static PyObject *found(PyObject *module, PyObject *args)
{
	int root, follow;
	PyObject *text, *key, *result = NULL;
	struct walk w;
	if (!PyArg_ParseTuple(args, "iO&pO", &root, PyUnicode_FSConverter, &text, &follow, &key))
		return NULL;
	int err = walk_from(&w, root, text, follow);
	if (err)
		raise(err, key);
	else if (w.stopped || !w.exists)
		result = Py_NewRef(w.stopped ? Py_False : Py_None);
	else
		result = status_of(&w.found, Py_None);
	walk_ends(&w);
	Py_DECREF(text);
	return result;
}

/* Place(root, text, follow, key): the place that a walk from the open directory reaches. Errors name the key. */
static PyObject *place_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	int root, follow;
	PyObject *text, *key;
	struct walk w;
	if (!PyArg_ParseTuple(args, "iO&pO", &root, PyUnicode_FSConverter, &text, &follow, &key))
		return NULL;
	int err = walk_from(&w, root, text, follow);
	if (!err && !w.owns) {
		int fd = fcntl(root, F_DUPFD_CLOEXEC, 0);
		err = fd < 0 ? -errno : 0;
		w.directory = fd;
		w.owns = !err;
	}
	struct place *p = err ? NULL : (struct place *)PyType_GenericAlloc(type, 0);
	if (p) {
		p->directory.fd = w.directory;
		w.owns = false;
		p->directory.is_path = true;
		p->parts[KEY] = Py_NewRef(key);
		p->parts[PATH] = PyUnicode_DecodeFSDefault(w.path);
		p->parts[PARENT] = PyUnicode_DecodeFSDefaultAndSize(w.path, w.name > w.path ? w.name - w.path - 1 : 0);
		p->parts[NAME] = PyUnicode_DecodeFSDefault(*w.name ? w.name : ".");
		p->found = w.found;
		p->exists = w.exists;
		p->parts[REST] = w.stopped ? PyUnicode_DecodeFSDefault(w.rest) : Py_NewRef(Py_None);
		for (int k = 0; p && k < PARTS; k++)
			if (!p->parts[k])
				Py_CLEAR(p);
	}
	walk_ends(&w);
	Py_DECREF(text);
	return err ? raise(err, key) : (PyObject *)p;
}

/* ---------------------------------------------------------------- changes */

/* Return True; False: the kernel or the file system lacks the call; NULL: it has failed. */
static PyObject *done(int err)
{
	if (err && err != -ENOSYS && err != -EINVAL && err != -EOPNOTSUPP)
		return raise(err, NULL);
	return PyBool_FromLong(!err);
}

static PyObject *rename_noreplace(PyObject *module, PyObject *args)
{
	int src_dir, dst_dir, err;
	PyObject *src = NULL, *dst = NULL;
	if (!PyArg_ParseTuple(args, "iO&iO&", &src_dir, PyUnicode_FSConverter, &src, &dst_dir, PyUnicode_FSConverter,
			      &dst))
		return NULL;
	const char *old = PyBytes_AsString(src), *new = PyBytes_AsString(dst);
	Py_BEGIN_ALLOW_THREADS err = renameat2(src_dir, old, dst_dir, new, RENAME_NOREPLACE) ? -errno : 0;
	Py_END_ALLOW_THREADS Py_DECREF(src);
	Py_DECREF(dst);
	return done(err);
}

static PyObject *change_range(PyObject *module, PyObject *args)
{
	int mode, fd, err;
	long long offset, length;
	if (!PyArg_ParseTuple(args, "iiLL", &mode, &fd, &offset, &length))
		return NULL;
	REPEATED(err = fallocate(fd, FALLOC_FL_KEEP_SIZE | mode, offset, length) ? -errno : 0);
	return done(err);
}

static PyObject *sync_file_system(PyObject *module, PyObject *args)
{
	int fd, err;
	if (!PyArg_ParseTuple(args, "i", &fd))
		return NULL;
	Py_BEGIN_ALLOW_THREADS err = syncfs(fd) ? -errno : 0;
	Py_END_ALLOW_THREADS return err ? raise(err, NULL) : Py_NewRef(Py_None);
}

int pc_install_names(PyObject *module)
{
	static PyMethodDef functions[] = {
		{"status", status, METH_VARARGS,
		 "status($module, fd, name='', key=None, /)\n--\n\nStatus of an open object, or of a name in it."},
		{"found", found, METH_VARARGS,
		 "found($module, root, text, follow, key, /)\n--\n\nStatus of what a walk reaches, or None, or False."},
		{"file_status", file_status, METH_VARARGS,
		 "file_status($module, stat, cached, /)\n--\n\nThe FileStat of an object without local bytes."},
		{"rename_noreplace", rename_noreplace, METH_VARARGS,
		 "rename_noreplace($module, src_dir, src, dst_dir, dst, /)\n--\n\nRename unless `dst` exists."},
		{"change_range", change_range, METH_VARARGS,
		 "change_range($module, mode, fd, offset, length, /)\n--\n\nCall fallocate; the size stays."},
		{"sync_file_system", sync_file_system, METH_VARARGS,
		 "sync_file_system($module, fd, /)\n--\n\nSync the file system of an open object."},
		{NULL, NULL, 0, NULL},
	};
	static PyMethodDef methods[] = {
		{"close", descriptor_close, METH_NOARGS, "close($self, /)\n--\n\nClose the descriptor. Idempotent."},
		{"__enter__", descriptor_enter, METH_NOARGS, NULL},
		{"__exit__", descriptor_close, METH_VARARGS, NULL},
		{NULL, NULL, 0, NULL},
	};
	static PyMemberDef descriptor_members[] = {
		{"fd", T_INT, offsetof(struct descriptor, fd), READONLY, NULL},
		{NULL, 0, 0, 0, NULL},
	};
	static PyType_Slot descriptor_slots[] = {
		{Py_tp_new, pc_fd_new},
		{Py_tp_dealloc, descriptor_dealloc},
		{Py_tp_methods, methods},
		{Py_tp_members, descriptor_members},
		{Py_tp_doc, "An open descriptor, which its finaliser closes."},
		{0, NULL},
	};
	static PyType_Spec descriptor_spec = {"pagecache._native._core.Descriptor", sizeof(struct descriptor), 0,
					      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, descriptor_slots};
	static PyMemberDef members[] = {
		{"directory", T_INT, offsetof(struct place, directory.fd), READONLY, NULL},
		{"key", T_OBJECT, offsetof(struct place, parts[KEY]), READONLY, NULL},
		{"path", T_OBJECT, offsetof(struct place, parts[PATH]), READONLY, NULL},
		{"parent", T_OBJECT, offsetof(struct place, parts[PARENT]), READONLY, NULL},
		{"name", T_OBJECT, offsetof(struct place, parts[NAME]), READONLY, NULL},
		{"rest", T_OBJECT, offsetof(struct place, parts[REST]), READONLY, NULL},
		{NULL, 0, 0, 0, NULL},
	};
	static PyMethodDef place_methods[] = {
		{"is_same", place_is_same, METH_O,
		 "is_same($self, other, /)\n--\n\nWhether two names have one object."},
		{NULL, NULL, 0, NULL},
	};
	static PyGetSetDef getset[] = {
		{"found", place_found, NULL, NULL, NULL},
		{"kind", place_kind, NULL, NULL, NULL},
		{NULL, NULL, NULL, NULL, NULL},
	};
	static PyType_Slot slots[] = {
		{Py_tp_new, place_new},
		{Py_tp_dealloc, place_dealloc},
		{Py_tp_members, members},
		{Py_tp_methods, place_methods},
		{Py_tp_getset, getset},
		{Py_tp_doc, "A name in an open directory."},
		{0, NULL},
	};
	static PyType_Spec spec = {"pagecache._native._core.Place", sizeof(struct place), 0,
				   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
	PyObject *objects = PyImport_ImportModule("pagecache.objects");
	status_type = objects ? (PyTypeObject *)PyObject_GetAttrString(objects, "ObjectStat") : NULL;
	file_status_type = objects ? (PyTypeObject *)PyObject_GetAttrString(objects, "FileStat") : NULL;
	zero = PyLong_FromLong(0);
	Py_XDECREF(objects);
	for (int k = 0; k < ALL_FIELDS; k++)
		if (!file_status_type ||
		    !(fields[k] = PyObject_GetAttrString((PyObject *)file_status_type, field_names[k])))
			return -1;
	get_field = (descrgetfunc)PyType_GetSlot(Py_TYPE(fields[0]), Py_tp_descr_get);
	set_field = (descrsetfunc)PyType_GetSlot(Py_TYPE(fields[0]), Py_tp_descr_set);
	for (int k = 0; k < 16; k++)
		if (!(kinds[k] = PyUnicode_InternFromString(kind_names[k] ? kind_names[k] : "file")))
			return -1;
	PyObject *descriptor = PyType_FromSpec(&descriptor_spec);
	PyObject *place = descriptor ? PyType_FromSpecWithBases(&spec, descriptor) : NULL;
	place_type = (PyTypeObject *)place;
	int err = !status_type || !get_field || !set_field || !zero || !place ||
		  PyModule_AddObjectRef(module, "Descriptor", descriptor) ||
		  PyModule_AddObjectRef(module, "Place", place) || pc_install_local_file(module, descriptor) ||
		  PyModule_AddFunctions(module, functions);
	Py_XDECREF(descriptor);
	return err ? -1 : 0;
}
