/* The counter behind `make profile`: a TCG plugin that counts how often the guest executes each instruction of its kernel.
 *
 * The guest's program says when to count. It executes `hint #126` and `hint #127`, which no processor gives a meaning and
 * all run as NOP; between the two the plugin counts. A guest that never executes the first is counted from the start.
 * Counting is by instruction and not by translation block, because a block that faults in its middle was not executed
 * whole. It is exact under -icount, where QEMU runs one processor at a time.
 *
 * When QEMU ends, the file of the argument `out=` has one line of each instruction of the kernel (the upper half of the
 * address space) that was counted: address, count, what QEMU disassembles it to. The line `user` has the count of all
 * other instructions, the line `windows` how often counting began.
 *
 * Debian packages no qemu-plugin.h, so what is used of QEMU's interface is declared here. Between QEMU 7.2 (version 1 of
 * the interface) and 10.0 (version 4) it changed in one function, and in the versions that QEMU accepts.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
/* The beginning of qemu_info_t, which is all that is read. */
struct qemu_info {
    const char *target_name;
    struct {
        int min, cur;
    } version;
};

enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *),
                                            enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *);
/* Came with version 2. */
__attribute__((weak)) void *qemu_plugin_scoreboard_new(size_t);
/* Since version 3 it copies the bytes; until then it took the instruction alone and returned a pointer to them. */
uintptr_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);

EXPORT int qemu_plugin_version = 1;

/* QEMU reads the number after it has loaded the plugin, and refuses 1 when it has no functions of version 1 any more. */
__attribute__((constructor)) static void choose_version(void) {
    if (qemu_plugin_scoreboard_new) qemu_plugin_version = 2;
}

enum { HINT_BEGIN = 0xd5032fdf, HINT_END = 0xd5032fff };

struct counter {
    uint64_t address, count;
    char *text;
    struct counter *next;
};

enum { BUCKETS = 1 << 16 };
static struct counter *counters[BUCKETS];
static struct counter user;
static uint64_t windows;
static bool counting;
static bool data_is_copied;
static const char *out;

static void executed(unsigned cpu, void *counter) {
    (void)cpu;
    if (counting) ((struct counter *)counter)->count++;
}

static void forget_counts(void) {
    user.count = 0;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct counter *counter = counters[i]; counter; counter = counter->next) counter->count = 0;
}

static void begin(unsigned cpu, void *unused) {
    (void)cpu, (void)unused;
    /* What was counted so far was counted because no mark had been seen. */
    if (windows++ == 0) forget_counts();
    counting = true;
}

static void end(unsigned cpu, void *unused) {
    (void)cpu, (void)unused;
    counting = false;
}

static uint32_t word_of(const struct qemu_plugin_insn *insn) {
    uint32_t word = 0;
    uintptr_t result = qemu_plugin_insn_data(insn, &word, sizeof word);
    if (!data_is_copied) memcpy(&word, (const void *)result, sizeof word);
    return word;
}

/* QEMU translates code more than once; its counter stays. Callers hold no lock: QEMU calls one translation at a time
 * under -icount. */
static struct counter *counter_of(const struct qemu_plugin_insn *insn) {
    uint64_t address = qemu_plugin_insn_vaddr(insn);
    if (!(address >> 63)) return &user;
    struct counter **bucket = &counters[(address >> 2) % BUCKETS];
    for (struct counter *counter = *bucket; counter; counter = counter->next)
        if (counter->address == address) return counter;
    struct counter *counter = calloc(1, sizeof *counter);
    if (!counter) abort();
    counter->address = address;
    counter->text = qemu_plugin_insn_disas(insn);
    counter->next = *bucket;
    *bucket = counter;
    return counter;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word = word_of(insn);
        void (*callback)(unsigned, void *) = word == HINT_BEGIN ? begin : word == HINT_END ? end : executed;
        qemu_plugin_register_vcpu_insn_exec_cb(insn, callback, QEMU_PLUGIN_CB_NO_REGS, counter_of(insn));
    }
}

static void write_counts(qemu_plugin_id_t id, void *unused) {
    (void)id, (void)unused;
    FILE *file = fopen(out, "w");
    if (!file) {
        perror(out);
        return;
    }
    fprintf(file, "windows %" PRIu64 "\nuser %" PRIu64 "\n", windows, user.count);
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct counter *counter = counters[i]; counter; counter = counter->next)
            if (counter->count)
                fprintf(file, "%" PRIx64 " %" PRIu64 " %s\n", counter->address, counter->count,
                        counter->text ? counter->text : "");
    fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) out = strdup(argv[i] + 4);
    if (!out) {
        fprintf(stderr, "the profile plugin needs out=FILE\n");
        return -1;
    }
    data_is_copied = info->version.cur >= 3;
    counting = true;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, write_counts, NULL);
    return 0;
}
