# Debian's strace in sessions of the kinds that it is used in. What differs from boot to boot is evened out below: addresses, process
# numbers, times and random bytes; and the calls of each process are shown together, because who runs first is nobody's promise.

# strace -f -o: calls that were cut in two are joined, processes are P1, P2, ... in the order of their numbers.
even() {
    awk '
    { pid = $1; text = substr($0, length(pid) + 1); sub(/^ +/, "", text) }
    text ~ / <unfinished \.\.\.>$/ { sub(/ <unfinished \.\.\.>$/, "", text); open[pid] = text; next }
    text ~ /^<\.\.\. [a-z0-9_]+ resumed>/ { sub(/^<\.\.\. [a-z0-9_]+ resumed>/, "", text); text = open[pid] text; delete open[pid] }
    # When the end of a child is told, and what a handler does then, is a matter of who is faster.
    text ~ /^--- SIGCHLD/ || text ~ /^rt_sigreturn/ { next }
    { lines[pid] = lines[pid] text "\n"; if (!(pid in seen)) { seen[pid] = 1; pids[++count] = pid + 0 } }
    END {
        for (i = 1; i <= count; i++) for (j = i + 1; j <= count; j++) if (pids[j] < pids[i]) { t = pids[i]; pids[i] = pids[j]; pids[j] = t }
        for (i = 1; i <= count; i++) {
            text = lines[pids[i]]
            for (j = 1; j <= count; j++) gsub("(= |_pid=|[(])" pids[j] "($|[\n),])", "=P" j "\n", text)
            printf "P%d\n%s", i, text
        }
    }' "$1" | sed -E 's/0x[0-9a-f]{5,}/ADDR/g; s/getrandom\("[^"]*"/getrandom(RANDOM/; s/getppid\(\).*/getppid()/; s/ +/ /g; s/si_pid=[0-9]+/si_pid=PID/; /^$/d'
}

echo '--- a pipeline'
strace -f -o trace sh -c 'echo a | cat'
even trace

echo '--- counted'
strace -f -c -o trace sh -c 'echo a | cat; mkdir made; rmdir made'
awk '$NF ~ /^(execve|clone|pipe2|dup3|wait4|mkdirat|unlinkat|exit_group|total)$/ && $NF != "total" { print $4, $NF }' trace | sort

echo '--- attached to and left'
sleep 3 &
sleeper=$!
usleep 300000
strace -o trace -p $sleeper 2>/dev/null &
tracer=$!
usleep 500000
grep TracerPid /proc/$sleeper/status | sed "s/$tracer/the tracer/"
kill -INT $tracer
wait $tracer
echo "the tracer: $?"
grep TracerPid /proc/$sleeper/status
grep State /proc/$sleeper/status
wait $sleeper
echo "the sleeper: $?"
sed -E 's/0x[0-9a-f]{5,}/ADDR/g; s/tv_nsec=[0-9]+/tv_nsec=N/g; s/tv_sec=[0-9]+/tv_sec=N/g' trace

echo '--- with threads'
strace -f -o trace abitest helper:core
echo "status $?"
grep -c ' clone(\|clone resumed' trace
sed -E 's/^[0-9]+ +//' trace | grep '^+++\|^--- SIGSEGV' | sed -E 's/ \(core dumped\)//' | sort
rm -f core*

echo '--- tampered with'
strace -o trace -e trace=mkdirat -e inject=mkdirat:error=ENOSPC mkdir made
cat trace
strace -o trace -e trace=mkdirat -e inject=mkdirat:retval=0 mkdir made
echo "status $?"
ls made
cat trace
strace -o trace -e trace=mkdirat -e inject=mkdirat:signal=SIGUSR1 mkdir made
echo "status $?"
sed -E 's/si_pid=[0-9]+/si_pid=PID/' trace
strace -o trace -e trace=unlinkat -e fault=unlinkat:when=2 rm -f one two three
cat trace

echo '--- by a filter'
strace -f --seccomp-bpf -e trace=pipe2,mkdirat -o trace sh -c 'echo b | cat; mkdir -p made'
even trace

echo '--- what fails'
strace -o trace /nowhere
echo "status $?"
strace -p 1000000
echo "status $?"
