# SPDX-License-Identifier: GPL-2.0-only

SHELL = /bin/bash
MAKEFLAGS += --no-print-directory

SERIES ?= linux-5.10
export SERIES KERNEL_SRC FORCE JOBS ROUNDS PARTS FIRST MINUTES

# What the targets need of Debian.
DEPS ?= git xz-utils perl python3 \
	gcc make flex bison bc cpio rsync libc6-dev libelf-dev zlib1g-dev \
	libcap-dev pahole python3-ply python3-git \
	clang llvm iproute2 iputils-ping kmod qemu-system-x86 bats \
	shellcheck libcmocka-dev spin ccache gnuplot-nox python3-sphinx

goals := $(or $(MAKECMDGOALS),help)

# What kernels for other architectures need besides, to be built and to run
archs := arm64 i386
deps_arm64 := gcc-aarch64-linux-gnu qemu-system-arm
deps_i386 := gcc-i686-linux-gnu
DEPS += $(foreach a,$(archs),$(if $(filter $(a)-% check-$(a) check-all,$(goals)),$(deps_$(a))))

tree := $(CURDIR)/build/$(SERIES)
obj := $(CURDIR)/build/obj
selftests := $(CURDIR)/build/selftests

# Under sudo all but the packages is done as the user whose repository this is:
# what root makes, a later run without sudo could not write.
ifeq ($(shell id -u),0)
ifneq ($(filter-out 0,$(SUDO_UID)),)
ifeq ($(SUDO_UID),$(shell stat -c %u .))
user := $(shell id -un $(SUDO_UID))
endif
endif
endif

ifdef user
.PHONY: $(goals) as-user
$(goals): as-user
	@:
as-user:
	@$(if $(filter-out help clean series,$(goals)),series/deps $(DEPS))
	@runuser -u $(user) -- env -u SUDO_UID HOME=$$(getent passwd $(user) | cut -d: -f6) \
		$(MAKE) $(goals)
else

.PHONY: help deps series tree refresh check-series check-builds check-docs \
	kernel base-kernel debug-kernel kcsan-kernel rt-kernel nomemcg-kernel \
	slab-kernel up-kernel selftests run bench shell test record-base \
	check-all check-wide check-debug check-kcsan check-rt check-slab \
	check-up check-lint soak $(archs:%=%-kernel) $(archs:%=%-selftests) \
	$(archs:%=check-%) clean

help:
	@sed -n -e 's/$$(SERIES)/$(SERIES)/' -e 's/^## \?//p' Makefile

## make run           build, boot, and show the table: this series beside its base
## make test          all tests
## make check-all     check-builds and all of the following, for hours; what fails does
##                    not stop it:
## make check-wide    some selftests with other numbers of CPUs
## make check-debug   our selftests under KASAN, lockdep, kmemleak and the like
## make check-kcsan   data races of maps and allocator in our selftests
## make check-rt      our selftests on PREEMPT_RT, with lockdep
## make check-slab    our selftests with SLAB, without preemption
## make check-up      our selftests with CONFIG_SMP=n
## make check-arm64   our selftests on arm64
## make check-i386    our selftests on 32-bit x86
## make check-lint    W=1 of gcc and clang, and sparse, on what the series touches
##
## make bench         measure and plot this series beside its base, in out/bench
## make soak          all contexts at once, for MINUTES=N [10]: a verdict, and plots
##                    of memory and latencies, in out/soak
## make record-base   write anew in tests/base what passes on the base kernel
##
## make series        write out/$(SERIES)/*.patch for git am; needs no kernel source
## make tree          build/$(SERIES): the base with the series applied
## make refresh       write the commits of build/$(SERIES) back into this repository
## make check-series  git am, round trip, checkpatch.pl, get_maintainer.pl
## make check-docs    HTML of Documentation/bpf, without warnings
## make check-builds  build every commit: kernel, selftests, tools, samples
##
## make kernel        build/obj: the series' kernel
## make base-kernel   build/obj-base: the base's
## make debug-kernel  build/obj-debug: the series' with lockdep, KASAN and the like
## make kcsan-kernel  build/obj-kcsan: the series' by clang, with KCSAN
## make rt-kernel     build/obj-rt: the base's with its RT patch, and the series on that
## make nomemcg-kernel  build/obj-nomemcg: the series' without memory cgroups
## make slab-kernel   build/obj-slab: the series' with SLAB, without preemption
## make up-kernel     build/obj-up: the series' for one CPU
## make arm64-kernel  build/obj-arm64: the series' for arm64
## make i386-kernel   build/obj-i386: the series' for 32-bit x86
## make selftests     build/selftests: the series' BPF selftests
## make shell         a shell in the series' kernel; vm/run --help tells more
## make deps          install the Debian packages that are missing
## make clean         remove build/ and out/
##
## KERNEL_SRC=DIR     take the kernel source in DIR in place of Debian's package
## ROUNDS=N PARTS=...  with make bench: how often, and what; see vm/bench/run
## JOBS=N             compile N files at a time [one a CPU]
## FORCE=1            with make tree and make clean: drop edits in build/$(SERIES)

deps:
	@series/deps $(DEPS)

series:
	@series/mail out/$(SERIES)
	@ls out/$(SERIES)/*.patch

tree: deps
	@series/tree

refresh:
	@series/refresh

check-series: tree
	@series/check

check-docs: tree
	@series/docs

check-builds: kernel base-kernel selftests
	@vm/each $(obj) $(obj)-base $(selftests)

kernel: tree
	@vm/build $(tree) $(obj) vm/series.config

base-kernel: tree
	@vm/build $(tree)-base $(obj)-base

debug-kernel: tree
	@vm/build $(tree) $(obj)-debug vm/series.config vm/debug.config

# Only what the series touches is looked at: the base has races of its own.
kcsan_files := memalloc map_lock hashtab percpu_freelist bpf_lru_list map_in_map lpm_trie \
	bpf_local_storage bpf_inode_storage bpf_sk_storage
kcsan-kernel: tree
	@KMAKE="CC=clang KCSAN_SANITIZE=n $(kcsan_files:%=KCSAN_SANITIZE_%.o=y)" \
		vm/build $(tree) $(obj)-kcsan vm/series.config vm/kcsan.config

rt-kernel: tree
	@series/rt
	@vm/build $(tree)-rt $(obj)-rt vm/series.config vm/rt.config vm/rt-debug.config

nomemcg-kernel: tree
	@vm/build $(tree) $(obj)-nomemcg vm/series.config vm/nomemcg.config

slab-kernel: tree
	@vm/build $(tree) $(obj)-slab vm/series.config vm/slab.config

up-kernel: tree
	@vm/build $(tree) $(obj)-up vm/series.config vm/up.config

$(archs:%=%-kernel): %-kernel: tree
	@VM_ARCH=$* vm/build $(tree) $(obj)-$* vm/series.config vm/$*.config

$(archs:%=%-selftests): %-selftests: %-kernel
	@VM_ARCH=$* vm/selftests $(tree) $(obj)-$* $(selftests)-$*

selftests: kernel
	@vm/selftests $(tree) $(obj) $(selftests)

# Both kernels run it: what the base answers stands beside what the series does.
DEMO ?= vm/demo/run $(tree) $(obj) $(obj)-base $(selftests)

run: kernel base-kernel selftests
	@$(DEMO)

shell: kernel
	@vm/run --tty --timeout 86400 bash || :

bench: kernel base-kernel selftests
	@vm/bench/run $(tree) $(obj) $(obj)-base $(selftests) out/bench

soak: kernel selftests
	@vm/soak/run $(tree) $(obj) $(selftests) out/soak

test: kernel selftests
	@tests/run

check-wide: kernel selftests
	@tests/run wide

check-debug: debug-kernel selftests
	@tests/run debug

check-kcsan: kcsan-kernel selftests
	@tests/run kcsan

check-rt: rt-kernel selftests
	@tests/run rt

check-slab: slab-kernel selftests
	@tests/run slab

check-up: up-kernel selftests
	@tests/run up

$(archs:%=check-%): check-%: %-selftests
	@VM_ARCH=$* tests/run $*

check-lint: kernel
	@series/deps sparse
	@vm/lint $(tree) $(obj) $(CURDIR)/build/lint

# In the order of the time that they take, each whatever came out before it.
parts := check-lint check-wide check-builds check-up check-slab $(archs:%=check-%) \
	check-kcsan check-rt check-debug
check-all:
	@failed=; for part in $(parts); do \
		echo "== $$part"; $(MAKE) $$part || failed="$$failed $$part"; \
	done; echo "check-all:$${failed:+ failed:}$${failed:- all passed}"; [ -z "$$failed" ]

# Built for the series' kernel, they run on the base's too: what is of either
# kernel, libbpf looks up in the one that runs.
record-base: base-kernel selftests
	@tests/run --record

clean:
	@series/clean

endif
