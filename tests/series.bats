# SPDX-License-Identifier: GPL-2.0-only
# The series: mails, tree, refresh, and what they refuse. Most of it on a small
# repository and a small "kernel" of its own; the last on the real ones.

bats_require_minimum_version 1.5.0

setup() {
	real=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	cd "$BATS_TEST_TMPDIR"
	export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
	real_src=${KERNEL_SRC-}
	unset FORCE MAKEFLAGS MAKELEVEL
	git config --global user.name "A. Üser"
	git config --global user.email user@example.org

	mkdir -p src/kernel src/tools
	printf 'VERSION = 5\nPATCHLEVEL = 10\nSUBLEVEL = 1\n' >src/Makefile
	touch src/Kbuild
	printf '*.o\n/*\n!/debian/\n' >src/.gitignore
	seq 20 >src/kernel/a.c
	seq 20 >src/kernel/b.c
	echo doomed >src/tools/old.c
	printf '#!/bin/sh\n' >src/tools/go.sh

	mkdir -p repo/vm repo/series/linux-5.10 repo/kernel repo/tools/t
	cp "$real"/series/* repo/series/ 2>/dev/null || :
	cp "$real/vm/progress" repo/vm
	cp "$real/Makefile" repo
	cp "$real/series/linux-5.10/base" repo/series/linux-5.10
	printf 'kernel: all of it\n\nThe cover.\n' >repo/series/linux-5.10/cover
	printf '// SPDX-License-Identifier: GPL-2.0\nint x;\n' >repo/kernel/new.c
	printf '#!/bin/sh\n# SPDX-License-Identifier: GPL-2.0\n' >repo/tools/t/run.sh
	chmod +x repo/tools/t/run.sh
	(
		git init -q edit
		cp -r src/. edit
		cd edit
		git add -A -f
		git commit -qm base
		sed -i 's/^3$/three/' kernel/a.c
		{
			printf 'kernel: write three in full\n\nA digit is hard to read.\n\n'
			printf 'Adds: kernel/new.c\nAdds: tools/t/run.sh\n\n'
			git diff --abbrev=12
		} >../repo/series/linux-5.10/0001-kernel-write-three-in-full.patch
		git commit -qam 1
		sed -i 's/^12$/twelve/' kernel/a.c
		chmod +x tools/go.sh
		git rm -q tools/old.c
		{
			printf 'kernel: the rest\n\nWith a tag of its own.\n\n'
			printf 'Reported-by: Zoë <zoe@example.org>\n\n'
			git diff HEAD --abbrev=12
		} >../repo/series/linux-5.10/0002-kernel-the-rest.patch
	)
	export KERNEL_SRC=$PWD/src
	repo=$PWD/repo
	tree=$repo/build/linux-5.10
}

files() { # all of the repository that is not generated
	(cd "$repo" && find . -path ./build -prune -o -path ./out -prune -o -type f \
		-printf '%p %m ' -exec sha256sum {} \; | sort)
}

m() {
	run make --no-print-directory -C "$repo" DEPS= "$@"
	echo "status $status: $output"
}

ok() {
	m "$@"
	[ "$status" = 0 ]
}

refused() { # MESSAGE TARGET...
	local message=$1
	shift
	m "$@"
	[ "$status" != 0 ]
	[[ $output == *"$message"* ]]
}

commit() { # SUBJECT
	git -C "$tree" add -A
	git -C "$tree" commit -qsm "$1"$'\n\nBecause.'
}

@test "the mails apply with git am, one commit each, and make the same tree" {
	ok series KERNEL_SRC=/none
	ok tree
	git init -q am
	cp -r src/. am
	git -C am add -A -f
	git -C am commit -qm base
	git -C am am -q "$repo"/out/linux-5.10/000[12]-*.patch
	[ "$(git -C am log --reverse --format='%an|%s' | tail -n 2)" = "A. Üser|kernel: write three in full
A. Üser|kernel: the rest" ]
	[ "$(git -C am log -1 --format='%(trailers)')" = "Reported-by: Zoë <zoe@example.org>
Signed-off-by: A. Üser <user@example.org>" ]
	# All but .gitignore, which the base of the tree has without Debian's end.
	diff <(git -C am ls-tree -r HEAD | grep -v gitignore) \
		<(git -C "$tree" ls-tree -r HEAD | grep -v gitignore)
	[ "$(git -C "$tree" rev-list --count base..HEAD)" = 2 ]
	[ -x am/tools/t/run.sh ]
	[ -x am/tools/go.sh ]
	[ ! -e am/tools/old.c ]
	cmp am/kernel/new.c "$repo/kernel/new.c"
}

@test "the mails are the same when made again, and tell what they change" {
	git -C "$repo" init -q
	git -C "$repo" add -A
	git -C "$repo" commit -qm all
	ok series
	cp -r "$repo/out" first
	ok series
	diff -r first "$repo/out"
	grep -qx 'Subject: \[PATCH 0/2\] kernel: all of it' first/linux-5.10/0000-cover-letter.patch
	grep -qx ' 5 files changed, 6 insertions(+), 3 deletions(-)' first/linux-5.10/0000-cover-letter.patch
	grep -qx ' 3 files changed, 5 insertions(+), 1 deletion(-)' first/linux-5.10/0001-*
}

@test "the mails need an author" {
	rm "$HOME/.gitconfig"
	refused "need user.name and user.email in git config" series
	[ ! -e "$repo/out" ]
}

@test "tree, then refresh, changes nothing" {
	files >before
	ok tree
	ok refresh
	diff before <(files)
	ok tree
	[ "$output" = "" ]
}

@test "commits of the tree come back as patches and files" {
	ok tree
	echo 'int y;' >"$tree/kernel/newer.c"
	mkdir "$tree/lib"
	printf '#!/bin/sh\n' >"$tree/lib/run"
	chmod +x "$tree/lib/run"
	sed -i 's/^20$/twenty/' "$tree/kernel/b.c"
	commit "lib: more"
	ok refresh
	[ "$(patches)" = "0001-kernel-write-three-in-full.patch 0002-kernel-the-rest.patch 0003-lib-more.patch" ]
	[ "$(cat "$repo/kernel/newer.c")" = "int y;" ]
	[ -x "$repo/lib/run" ]
	[ ! -x "$repo/kernel/newer.c" ]
	[ "$(head -n 6 "$repo"/series/linux-5.10/0003-*)" = "lib: more

Because.

Adds: kernel/newer.c
Adds: lib/run" ]
	run ! grep Signed-off-by "$repo"/series/linux-5.10/0003-*

	git -C "$tree" reset -q --hard HEAD^
	ok refresh
	[ "$(patches)" = "0001-kernel-write-three-in-full.patch 0002-kernel-the-rest.patch" ]
	[ ! -e "$repo/kernel/newer.c" ]
	[ ! -e "$repo/lib" ]
}

@test "a file that the series brings can be edited later in it" {
	ok tree
	echo 'int y;' >>"$tree/kernel/new.c"
	commit "kernel: more"
	sed -i 's/int x/int xx/' "$tree/kernel/new.c"
	chmod +x "$tree/kernel/new.c"
	commit "kernel: still more"
	ok refresh
	[ "$(tail -n 2 "$repo/kernel/new.c")" = $'int xx;\nint y;' ]
	[ -x "$repo/kernel/new.c" ]
	grep -q '^+int y' "$repo"/series/linux-5.10/0003-*
	files >before
	ok refresh
	diff before <(files)

	ok series
	git init -q am
	cp -r src/. am
	git -C am add -A -f
	git -C am commit -qm base
	git -C am am -q "$repo"/out/linux-5.10/000[1-9]-*
	cmp am/kernel/new.c "$repo/kernel/new.c"
	[ "$(git -C am show HEAD~3:kernel/new.c | tail -n 1)" = "int x;" ]
	[ "$(git -C am show HEAD~1:kernel/new.c | tail -n 1)" = "int y;" ]

	sed -i 's/int xx/int w/' "$repo/kernel/new.c"
	rm -rf "$repo/out"
	refused "0004-kernel-still-more.patch is not what made of a file of the series what it is here" series
	[ ! -e "$repo/out" ]
}

patches() {
	(cd "$repo/series/linux-5.10" && echo 0*.patch)
}

@test "refresh refuses what cannot become the series, and changes nothing" {
	ok tree
	files >before
	echo edit >>"$tree/kernel/a.c"
	refused "has edits that are not committed" refresh
	git -C "$tree" checkout -q .
	echo new >"$tree/kernel/untracked.c"
	refused "kernel/untracked.c" refresh
	rm "$tree/kernel/untracked.c"
	git -C "$tree" rm -q kernel/new.c
	commit "kernel: again"
	refused '"kernel: again" removes kernel/new.c, which "kernel: write three in full" brings: squash them' refresh
	git -C "$tree" reset -q --hard HEAD^
	mkdir "$tree/vm"
	echo x >"$tree/vm/x"
	commit "vm: x"
	refused "adds vm/x, where this repository has files of its own" refresh
	diff before <(files)
}

@test "a changed series is applied again, and untouched files keep their times" {
	ok tree
	touch -d 2020-01-01 "$tree"/kernel/*.c
	echo 'int xx;' >"$repo/kernel/new.c"
	ok tree
	[ "$(cat "$tree/kernel/new.c")" = "int xx;" ]
	[ "$(stat -c %Y "$tree/kernel/new.c")" != "$(date -d 2020-01-01 +%s)" ]
	[ "$(stat -c %Y "$tree/kernel/a.c")" = "$(date -d 2020-01-01 +%s)" ]
	[ "$(stat -c %Y "$tree/kernel/b.c")" = "$(date -d 2020-01-01 +%s)" ]
	[ -z "$(git -C "$tree" status --porcelain)" ]
}

@test "a tree with edits of its own is kept" {
	ok tree
	echo edit >>"$tree/kernel/b.c"
	ok tree
	echo 'int xx;' >"$repo/kernel/new.c"
	refused "'make refresh' takes the tree's" tree
	grep -qx edit "$tree/kernel/b.c"
	refused "has edits that are not in the repository" clean
	commit "kernel: edit"
	refused "'make refresh' takes the tree's" tree
	ok tree FORCE=1
	[ "$(cat "$tree/kernel/new.c")" = "int xx;" ]
	run ! grep -x edit "$tree/kernel/b.c"
	ok clean
	[ ! -e "$repo/build" ]
}

@test "a patch that does not apply is named, with the file and line, and leaves the base" {
	sed -i 's/^ 11$/ eleven/' "$repo"/series/linux-5.10/0002-*
	refused "0002-kernel-the-rest.patch does not apply" tree
	[[ $output == *"error: patch failed: kernel/a.c:9"* ]]
	[ "$(git -C "$tree" rev-parse HEAD)" = "$(git -C "$tree" rev-parse base)" ]
	[ -z "$(git -C "$tree" status --porcelain)" ]
	[ ! -e "$tree/.git/rebase-apply" ]
	[ "$(ls "$repo/build")" = "linux-5.10
log" ]
	sed -i 's/^ eleven$/ 11/' "$repo"/series/linux-5.10/0002-*
	ok tree
}

@test "a file that the series brings but the repository lacks is named" {
	rm "$repo/kernel/new.c"
	refused "0001-kernel-write-three-in-full.patch adds kernel/new.c, which is not in the repository" tree
	refused "0001-kernel-write-three-in-full.patch adds kernel/new.c, which is not in the repository" series
	[ ! -e "$repo/out" ]
}

@test "a KERNEL_SRC that is not there, no kernel, not 5.10 or built in is refused" {
	refused "KERNEL_SRC=/none: no such directory" tree KERNEL_SRC=/none
	refused "is not a kernel source" tree KERNEL_SRC="$HOME"
	sed -i 's/PATCHLEVEL = 10/PATCHLEVEL = 15/' src/Makefile
	refused "is Linux 5.15; the series is for 5.10" tree
	sed -i 's/PATCHLEVEL = 15/PATCHLEVEL = 10/' src/Makefile
	touch src/.config
	refused "has been built in" tree
	[ ! -e "$tree" ]
}

@test "of a git KERNEL_SRC counts what is committed" {
	git -C edit reset -q --hard :/base
	echo edit >>edit/kernel/b.c
	ok tree KERNEL_SRC="$PWD/edit"
	cmp src/kernel/b.c "$tree/kernel/b.c"
}

@test "a package with another checksum is refused, and removed" {
	mkdir -p "$repo/build/dl"
	echo >"$repo/build/dl/linux-source-5.10_5.10.262-1_all.deb"
	KERNEL_SRC='' refused "did not have the sha256" tree
	[ "$(ls "$repo/build")" = "dl
log" ]
	[ -z "$(ls "$repo/build/dl")" ]
}

# An apt-get that has the archive but serves something else.
fake_apt() { # RELEASE
	mkdir bin
	cat >bin/apt-get <<END
#!/bin/sh
case \$* in
indextargets*) echo "$1 http://localhost/none" ;;
*install*) exit 100 ;;
*download*) echo other >linux-source-5.10_5.10.262-1_all.deb ;;
esac
END
	printf '#!/bin/sh\nexec "$@"\n' >bin/sudo
	chmod +x bin/apt-get bin/sudo
	PATH=$PWD/bin:$PATH
	export KERNEL_SRC=
}

@test "a package that comes with another checksum is refused, and not kept" {
	fake_apt bookworm-security
	refused "as fetched does not have the sha256" tree
	[ ! -e "$tree" ]
	[ -z "$(ls "$repo/build/dl")" ]
}

@test "an apt without the archive is told" {
	fake_apt bookworm
	refused "apt has no security archive to fetch linux-source-5.10 from" tree
	[ ! -e "$tree" ]
}

@test "no space is told before anything is unpacked" {
	mkdir bin
	printf '#!/bin/sh\necho Available; echo "x 1 1 100 1%% /"\n' >bin/df
	chmod +x bin/df
	PATH=$PWD/bin:$PATH refused "has 100 MB free, 4000 MB are needed" tree
	[ ! -e "$tree" ]
}

@test "a missing package that cannot be had is named" {
	fake_apt bookworm-security
	refused "cannot install no-such-package" tree DEPS="bash no-such-package" KERNEL_SRC=
	[ ! -e "$repo/build" ]
}

# The kernel's own scripts, in a tree that they take for one.
real_scripts() {
	local kernel=$real/build/linux-5.10
	mkdir -p src/{Documentation,arch,include,drivers,fs,init,ipc,lib,scripts}
	cp "$kernel"/{COPYING,CREDITS,README} src
	printf '%s\n' BPF 'M:	A <a@example.org>' 'L:	a-list@example.org' 'S:	Maintained' \
		'F:	kernel/' 'F:	tools/' \
		>src/MAINTAINERS
	cp "$kernel"/scripts/{checkpatch.pl,spelling.txt,const_structs.checkpatch,get_maintainer.pl} src/scripts
}

@test "check-series tells what is wrong with a series" {
	real_scripts
	ok check-series

	echo 'int y = 1 ; ' >>"$repo/kernel/new.c"
	refused "checkpatch.pl: 0001-" check-series
	[[ $output == *"trailing whitespace"* ]]
	sed -i '$d' "$repo/kernel/new.c"
	ok check-series

	mv "$repo"/series/linux-5.10/0002-{kernel-the-rest,other}.patch
	refused "refresh would change series/linux-5.10" check-series
	mv "$repo"/series/linux-5.10/0002-{other,kernel-the-rest}.patch
	ok check-series

	echo >>"$tree/kernel/b.c"
	refused "has edits that are not in the repository" check-series
}

@test "check-series wants every file to have a maintainer" {
	real_scripts
	sed -i '/tools/d' src/MAINTAINERS
	refused "MAINTAINERS does not know tools/t/run.sh" check-series
}

@test "the series passes git am, round trip, checkpatch.pl --strict" {
	make -C "$real" check-series KERNEL_SRC="$real_src"
}

@test "the series applies to the base with its RT patch too" {
	KERNEL_SRC=$real_src "$real/series/rt" --check
}

@test "the documentation has no warnings" {
	make -C "$real" check-docs KERNEL_SRC="$real_src"
}

@test "the shell is clean" {
	cd "$real"
	mapfile -t shell < <(find .ci series tests vm -type f -perm -100 -exec grep -lE '^#!/bin/(ba)?sh' {} +)
	[ ${#shell[@]} -ge 10 ]
	shellcheck "${shell[@]}"
}
