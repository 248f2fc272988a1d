#!/bin/sh
# What a shell asks of a kernel, in about 500 lines. Its output must be the same, byte for byte, on Linux and on Drupe, so
# it prints no process ids, times, addresses or sizes of things that are free to differ. Run in an empty /tmp.
section() {
	echo "== $* =="
}
check() {
	# check NAME COMMAND...: the status of a command
	name=$1
	shift
	"$@" >/dev/null 2>&1
	echo "$name: $?"
}
work=/tmp/script.$$
mkdir "$work" || exit 1
cd "$work" || exit 1

section statuses
true
echo "true $?"
false
echo "false $?"
(exit 77)
echo "subshell $?"
sh -c 'exit 255'
echo "sh -c $?"
/no/such/program 2>/dev/null
echo "missing $?"
/tmp 2>/dev/null
echo "directory $?"
echo text >plain
./plain 2>/dev/null
echo "not executable $?"
sh -c 'kill -TERM $$'
echo "SIGTERM $?"
sh -c 'kill -KILL $$'
echo "SIGKILL $?"
sh -c 'kill -USR1 $$'
echo "SIGUSR1 $?"
! true
echo "not $?"
true && false || echo "or"
check "test -e" test -e plain
check "test -x" test -x plain
check "test -d" test -d .
check "test -d plain" test -d plain

section arithmetic
i=0
sum=0
while [ $i -lt 100 ]; do
	i=$((i + 1))
	sum=$((sum + i * i))
done
echo "squares $sum"
echo "$((7 / 2)) $((-7 / 2)) $((7 % 3)) $((1 << 20)) $((0xff & 0x0f)) $((5 > 3)) $((5 == 3))"
echo "$((2147483647 + 1)) $((9223372036854775807))"
a=1 b=1
for n in 1 2 3 4 5 6 7 8 9 10; do
	c=$((a + b))
	a=$b
	b=$c
done
echo "fibonacci $b"
gcd() {
	if [ "$2" -eq 0 ]; then echo "$1"; else gcd "$2" $(($1 % $2)); fi
}
echo "gcd $(gcd 1071 462)"
primes=
n=2
while [ $n -lt 60 ]; do
	d=2
	prime=yes
	while [ $((d * d)) -le $n ]; do
		if [ $((n % d)) -eq 0 ]; then
			prime=no
			break
		fi
		d=$((d + 1))
	done
	[ $prime = yes ] && primes="$primes $n"
	n=$((n + 1))
done
echo "primes$primes"

section variables
x=value
echo "$x ${x} ${x:-other} ${y:-default} ${x:+set} ${#x}"
path=/usr/local/lib/name.tar.gz
echo "${path##*/} ${path%/*} ${path%%.*} ${path#*/} ${path##*.}"
echo "${y:=assigned} $y"
(${unset_variable:?} 2>/dev/null)
echo "unset $?"
set -- one 'two words' three
echo "$# $1 $2 $3"
for arg in "$@"; do echo "<$arg>"; done
for arg in $*; do printf '[%s]' "$arg"; done
echo
shift
echo "$# $1"
IFS=:
set -- $(echo a:b:c)
unset IFS
echo "$# $3"
readonly constant=1
(constant=2) 2>/dev/null
echo "readonly $?"
export EXPORTED=outside
sh -c 'echo "$EXPORTED"'
EXPORTED=inside sh -c 'echo "$EXPORTED"'
env -i A=1 B=2 env | sort
local_test() {
	local x=local
	echo "$x"
}
local_test
echo "$x"
quoted='single $x' double="double $x"
echo "$quoted, $double, \$x, \"quotes\""

section control
case abc in
	x*) echo "wrong" ;;
	a?c) echo "pattern" ;;
esac
case file.txt in
	*.sh | *.txt) echo "alternatives" ;;
	*) echo "wrong" ;;
esac
for i in 1 2 3 4 5; do
	[ $i = 2 ] && continue
	[ $i = 4 ] && break
	echo "loop $i"
done
until [ $i -ge 6 ]; do
	i=$((i + 1))
	echo "until $i"
done
nested() {
	for a in 1 2; do
		for b in x y; do
			[ $b = y ] && continue 2
			echo "$a$b"
		done
	done
}
nested
returns() {
	return 42
}
returns
echo "return $?"
if false; then echo "wrong"; elif true; then echo "elif"; else echo "wrong"; fi
eval 'evaluated=yes; echo "eval $evaluated"'
set -e
(false; echo "not reached") || echo "set -e in an or-list"
set +e
(set -u; echo "$no_such_variable") 2>/dev/null
echo "set -u $?"

section here-documents
cat <<END
expanded $x $((1 + 1)) $(echo command)
	tabs stay
END
cat <<'END'
literal $x $(echo command) \n
END
cat <<-END
	tabs go
		all of them
	END
while read -r first rest; do
	echo "$rest $first"
done <<END
1 one
2 two and more
END
sh <<END
echo "a script on standard input with $x"
END
big=$(seq 1 3000)
cat <<END | md5sum
$big
END

section files
echo one >file
echo two >>file
cat file
cat <file
wc -l <file
cp file copy
cmp file copy && echo "same"
mv copy moved
ls
rm moved
ls
mkdir -p deep/er/est
echo leaf >deep/er/est/leaf
find deep | sort
ln -s er/est/leaf deep/link
cat deep/link
readlink deep/link
ln file hard
stat -c '%h %F %s' file hard
rm hard
stat -c '%h' file
ln -s nowhere dangling
cat dangling 2>&1
test -L dangling && echo "a link"
test -e dangling || echo "to nothing"
ln -s loop2 loop1
ln -s loop1 loop2
cat loop1 2>&1
rmdir deep 2>&1
rm -r deep
mkdir dir dir/sub
touch dir/a dir/b dir/.hidden
ls dir
ls -A dir
ls -d dir/*
echo dir/?
echo dir/[ab]
echo dir/*z
chmod 640 file
stat -c '%a %A' file
chmod u+x,g-r file
stat -c '%a %A' file
umask 027
touch masked
mkdir maskeddir
stat -c '%a' masked maskeddir
umask 022
touch -d '2020-01-02 03:04:05' old
TZ=UTC stat -c '%y' old
touch -d '2021-01-02 03:04:05' young
test young -nt old && echo "newer"
: >file
stat -c '%s' file
truncate -s 10000 sparse
stat -c '%s' sparse
od -An -c sparse | head -n 2
mkfifo fifo
stat -c '%F' fifo
echo "through a fifo" >fifo &
cat fifo
wait
mv dir renamed
ls renamed
mv renamed/a renamed/sub/c
find renamed -type f | sort
mkdir renamed/sub 2>&1
touch /no/such/dir/file 2>&1
cat renamed 2>&1
cd renamed/sub
pwd | sed "s,$work,WORK,"
cd ../..
pwd | sed "s,$work,WORK,"
(cd / && pwd)
cd - >/dev/null
cd "$work"
df . >/dev/null && echo "df"
tar cf archive.tar renamed
tar tf archive.tar | sort
mkdir out
tar xf archive.tar -C out
find out -type f | sort
gzip -c archive.tar >archive.gz
gunzip -c archive.gz | cmp - archive.tar && echo "gzip"
for n in 1 2 3; do seq $n 100 >part.$n; done
ls part.*
cat part.* | md5sum
dd if=/dev/zero of=zeros bs=1k count=100 2>/dev/null
md5sum <zeros
dd if=zeros bs=1 skip=102390 2>/dev/null | wc -c
dd if=/dev/zero of=zeros bs=1 count=5 seek=50 conv=notrunc 2>/dev/null
stat -c '%s' zeros

section redirections
echo out 2>/dev/null
ls /no/such/file 2>&1
ls /no/such/file 2>error
cat error
{ echo a; echo b >&2; } >o 2>e
cat o e
{ echo a; echo b >&2; } >both 2>&1
cat both
echo swapped 3>&1 >&2 2>&3
exec 3>three
echo "to three" >&3
exec 3>&-
cat three
exec 4<three
read -r line <&4
exec 4<&-
echo "$line"
echo x >&5 2>/dev/null
echo "bad descriptor $?"
set -C
echo "noclobber" >three 2>/dev/null
echo "noclobber $?"
echo "forced" >|three
set +C
cat three
cat </no/such/file 2>/dev/null
echo "no input $?"
exec 6<>both
read -r line <&6
echo "changed" >&6
exec 6>&-
cat both
ls -l /proc/self/fd/ 2>/dev/null | grep -c 'dev\|pipe\|proc'
cat </dev/null
echo "null" >/dev/null
head -c 5 /dev/zero | od -An -tx1

section pipes
echo "a pipe" | cat
echo "three" | cat | cat | tr a-z A-Z
seq 1 10000 | tail -n 1
seq 1 20000 | wc -l
yes | head -n 3
yes | head -n 2000 | md5sum
seq 1 1000 | sort -r | head -n 2
seq 1 1000 | awk '{ s += $1 } END { print s }'
printf 'b\na\nc\na\n' | sort | uniq -c | sed 's/^ *//'
echo "a b c" | { read -r a b c; echo "$c $b $a"; }
false | true
echo "status of the last $?"
true | false
echo "status of the last $?"
(
	set -o pipefail
	false | true
	echo "pipefail $?"
)
seq 1 20 | while read -r n; do
	[ $((n % 5)) = 0 ] && echo "fifth $n"
done
seq 1 50 | xargs -n 10 echo
seq 1 3 | tee copy1 copy2 | wc -l
cmp copy1 copy2 && echo "tee"
dd if=/dev/zero bs=64k count=20 2>/dev/null | cat | cat | wc -c
(sleep 0.2; echo "late") | cat
sh -c 'yes; echo "status $?" >&2' 2>/dev/null | head -n 1
find / -xdev -maxdepth 1 -name bin | cut -c1-4
echo "grep me" | grep -o 'g[a-z]*'
echo "hello world" | sed 's/\(hello\) \(world\)/\2 \1/'
printf '%s\n' 3 1 2 | sort -n | tr '\n' ' '
echo
printf '%05d|%-6s|%x|%o|%c\n' 42 left 255 8 z

section substitution
echo "$(echo one)$(echo two)"
echo "$(echo "$(echo "$(echo deep)")")"
echo $(seq 1 5)
v=$(seq 1 2000)
echo "${#v}"
v=$(printf 'trailing\n\n\n')
echo "<$v>"
v=$(exit 9)
echo "status $?"
echo "$(cat <<END
a here-document in a substitution
END
)"
for f in $(ls part.*); do echo "$f"; done
echo "`echo backquotes`"
v=$(cat /no/such 2>&1)
echo "$v"
echo "$(<three)" | wc -c

section processes
# Whether the shell says `Terminated` before it is asked for the status is a matter of microseconds.
exec 9>&2 2>/dev/null
echo "$(sh -c 'echo $PPID')" | grep -c "^$$\$\|[0-9]"
sh -c 'exit 3' &
wait $!
echo "wait $?"
sleep 100 &
kill $!
wait $!
echo "killed $?"
sleep 100 &
kill -9 $!
wait $!
echo "killed $?"
for n in 1 2 3 4 5; do
	(sleep 0.$n; echo "child $n") &
done
wait
echo "all"
wait 99999 2>/dev/null
echo "no child $?"
kill -0 $$
echo "kill -0 $?"
kill -0 99999 2>/dev/null
echo "kill -0 $?"
(
	sh -c 'sleep 0.1; echo "orphan"' &
	exec true
)
sleep 0.4
n=0
while [ $n -lt 100 ]; do
	(exit 0)
	n=$((n + 1))
done
echo "100 forks"
n=0
while [ $n -lt 30 ]; do
	/bin/true
	n=$((n + 1))
done
echo "30 programs"
for n in 1 2 3 4; do
	(
		i=0
		while [ $i -lt 3000 ]; do i=$((i + 1)); done
		echo "$i"
	) &
done | sort | uniq -c | sed 's/^ *//'
wait
(echo "replaced"; exec echo "by exec")
sh -c 'exec sh -c "echo twice"'
timeout 0.2 sleep 10
echo "timeout $?"
deep() {
	if [ "$1" -gt 0 ]; then (deep $(($1 - 1))); else echo "20 deep"; fi
}
deep 20
ps | grep -c '[i]nit'
test -d /proc/$$ && echo "/proc/self"
tr '\0' ' ' </proc/self/cmdline
echo
cat /proc/$$/comm
awk '{ print NF }' /proc/self/stat
grep -c '^State:' /proc/self/status
readlink /proc/self/cwd | sed "s,$work,WORK,"
readlink /proc/self/exe
sh -c 'ulimit -n 64; ulimit -n'
(ulimit -f 1; dd if=/dev/zero of=limited bs=1k count=10) 2>/dev/null
echo "file size limit $?"

section signals
trap 'echo "caught USR1"' USR1
kill -USR1 $$
trap 'echo "caught USR2"' USR2
kill -USR2 $$
trap '' TERM
kill -TERM $$
echo "TERM ignored"
sh -c 'kill -TERM $$; echo "inherited"'
trap - TERM USR1 USR2
(trap 'echo "exit trap"' EXIT; exit 0)
(trap 'echo "cleanup"; exit 5' INT; kill -INT $(sh -c 'echo $PPID'))
echo "INT $?"
sh -c 'trap "echo got HUP; exit 1" HUP; sleep 0.3 & wait' &
sleep 0.1
kill -HUP $!
wait $!
echo "HUP $?"
sleep 100 &
kill -STOP $!
sleep 0.1
awk '{ print $3 }' /proc/$!/stat
kill -CONT $!
sleep 0.1
awk '{ print $3 }' /proc/$!/stat
kill $!
wait $!
echo "stopped, continued, ended $?"
sh -c 'trap "echo pipe" PIPE; seq 1 20000' | head -n 1
sh -c 'sh -c "kill -SEGV \$\$"; echo $?' 2>/dev/null
sh -c 'sh -c "kill -ABRT \$\$"; echo $?' 2>/dev/null
kill -l 9
kill -l 15

section jobs
wait
jobs >/dev/null
set -m
sleep 100 &
jobs | sed 's/ *&*$//'
kill %1
wait
jobs
sleep 100 &
kill -STOP %1
sleep 0.2
jobs | sed 's/ *$//'
bg %1 >/dev/null
jobs | sed 's/ *&*$//'
# One line: between two, a shell with job control drops jobs that have ended, and `wait` may come too late.
kill %1; wait %1
echo "job $?"
sh -c 'sleep 0.1; exit 4' &
fg %1 >/dev/null
echo "fg $?"
set +m
exec 2>&9 9>&-

section identity
id -u
id -g
id -un
hostname
uname -s
uname -m
whoami
su nobody -s /bin/sh -c 'id -u' 2>/dev/null || echo "su $?"
cat /etc/hostname
grep -c . /etc/passwd
test -w /etc/passwd && echo "root writes"
date -u -d @86400 +%Y-%m-%d
stty -F /dev/null 2>&1 | head -n 1
tty </dev/null

section programs
echo 'BEGIN { for (i = 1; i <= 5; i++) printf "%d ", i * i; print "" }' >squares.awk
awk -f squares.awk
printf 'name,age\nada,36\nalan,41\n' >table
cut -d, -f1 table
sort -t, -k2 -rn table
sed -n '2,$p' table | tr , ' '
grep -n a table
diff table - <<END
name,age
ada,37
alan,41
END
echo "diff $?"
printf 'one two\nthree\n' | wc
expr 6 '*' 7
basename /a/b/c.txt .txt
dirname /a/b/c.txt
seq -s, 1 9
echo "scale=0; 2^64" | bc
echo text | md5sum
echo text | sha256sum
echo text | sha1sum
printf 'abc' | base64
printf 'YWJj' | base64 -d
echo
rev <three
nl three | sed 's/^ *//'
od -An -tx1 three
test "$(head -c 16 /dev/urandom | wc -c)" = 16 && echo "random"
cat >script.sh <<'END'
#!/bin/sh
echo "script $0 with $# arguments: $*"
END
chmod +x script.sh
./script.sh a 'b c'
printf '#!/bin/busybox awk -f\nBEGIN { print "an awk script" }\n' >script.awk
chmod +x script.awk
./script.awk
printf '#!/no/such/interpreter\n' >broken.sh
chmod +x broken.sh
./broken.sh 2>/dev/null
echo "broken interpreter $?"
head -c 3000 /bin/busybox >truncated
chmod +x truncated
./truncated 2>/dev/null
test $? -ge 126 && echo "truncated program refused"

cd /
rm -r "$work"
test -e "$work" || echo "clean"
section end
