# Thin on purpose: each target is a command of the host tool in tools/, each variable one of its options.
# CMD and APPEND are passed as they are typed: write $HOME and $(uname), not $$HOME.
MAKEFLAGS += --no-print-directory
BUILD ?= release
# A closed standard input stays an input.
TOOL = tools/bootstrap.sh && cargo run --quiet --package tools --

variables = EXTRA APPEND CMD BUILD SMP QEMU QEMU_ARGS FIRMWARE ICOUNT TIMEOUT KERNEL ROW FUNCTION BASELINE SCALING RESPONSE RECORD
define pass
ifdef $(1)
override export $(1) := $$(value $(1))
endif
endef
$(foreach variable,$(variables),$(eval $(call pass,$(variable))))

.PHONY: help run test test-linux check image bench debug profile setup build record clean run-command
.DEFAULT_GOAL = help

help:
	@echo 'make run     boot QEMU raspi3b to a shell on the serial console (Ctrl-A x leaves)'
	@echo 'make test    all tests: on this machine, the ABI programs, and on QEMU'
	@echo 'make test-linux  the ABI programs on Debian'"'"'s Linux in QEMU: the judge of the cases'
	@echo 'make check   formatting, clippy with warnings denied, unsafe count'
	@echo 'make image   build/drupe-sd.img, ready to flash'
	@echo 'make bench   the process primitives, measured beside Linux on the same machine'
	@echo 'make debug   boot stopped, with the gdb server, and say how to attach'
	@echo 'make profile ROW=fork (or CMD=...)   count the instructions of the kernel, by function, while it runs'
	@echo 'make setup   get what this machine lacks (the others do that first, too)'
	@echo 'make build   the kernel and the root file system, in build/'
	@echo 'make clean   remove what was built; downloads stay (build/ can be deleted at any time)'
	@echo
	@echo 'Variables:'
	@echo '  EXTRA=dir        lay a folder (up to 300 MiB) over the root file system'
	@echo "  APPEND='...'     add to the kernel command line"
	@echo "  CMD='...'        run one shell command as root, power off, exit with its status (124: TIMEOUT, 125: panic)"
	@echo '  TIMEOUT=120      seconds that CMD may take'
	@echo '  BUILD=release    or debug'
	@echo '  SMP=1..4         how many cores are started'
	@echo "  QEMU=, QEMU_ARGS='...'   another qemu-system-aarch64, more arguments for it"
	@echo '  ICOUNT=1         count guest time in instructions: repeatable'
	@echo '  KERNEL=file      boot this image and build none; KERNEL=linux is Debian'"'"'s Linux, to compare'
	@echo '  FIRMWARE=dir     for image: the folder with bootcode.bin, start.elf, fixup.dat'
	@echo "  ROW='names'      for bench, profile: only these rows of the benchmark"
	@echo '  BASELINE=image   for bench: compare with this image of Drupe instead of Linux'
	@echo '  SCALING=1        for bench: fork throughput on one core and on two, by the wall clock'
	@echo '  RESPONSE=1       for bench: only cyclictest and hackbench, on both kernels'
	@echo '  RECORD=1         for bench: put the tables and the chart into kernel/doc and README.md'
	@echo "  FUNCTION='name'  for profile: list the instructions of the functions with that in their names"
	@echo "  TESTS='words'    for test: only the QEMU tests whose names contain one of the words"

ifdef CMD
# make's own exit status is always 2 on failure; see tools/make/exit.c.
run: run-command
	@:$(if $(wildcard build/exit.so),$(eval load build/exit.so))
	@exit $$(cat build/cmd.status)

run-command:
	@mkdir -p build && rm -f build/cmd.status
	@$(TOOL) run; echo $$? > build/cmd.status
	@cc -shared -fPIC -o build/exit.so tools/make/exit.c
else
run:
	@$(TOOL) run
endif

export TESTS
test test-linux check image bench debug profile setup build record:
	@$(TOOL) $@

clean:
	@cargo clean --quiet
	@rm -f build/*.img build/*.cpio build/*.partial
