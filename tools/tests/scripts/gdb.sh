# Debian's gdb and gdbserver: breakpoints, a hardware watchpoint, steps, a backtrace, both sides of a fork, threads, attaching and leaving.
# Addresses and process numbers are evened out.

even() {
    sed -E 's/0x[0-9a-f]+/ADDR/g; s/(process|Process|pid|LWP|Thread|Remote target|pid =) ?[0-9]+(\.[0-9]+)?/\1 N/g; s/\b[0-9]+\.[0-9]+\b/N/g; s/ +/ /g' | grep -v '^warning\|^Reading\|debuginfod\|^$'
}

session() {
    program=$1
    shift
    for command in "$@"; do
        echo "$command"
    done >/tmp/commands
    gdb -nx -batch -iex 'set debuginfod enabled off' -x /tmp/commands --args $program </dev/null 2>&1 | even
}

D=abitest::debuggee::debuggee
echo '--- breakpoints and a backtrace'
session '/usr/bin/abitest helper:debuggee' \
    "break ${D}_inner" run 'backtrace 3' 'delete 1' "tbreak ${D}_last" continue 'backtrace 2' continue

echo '--- a hardware watchpoint'
session '/usr/bin/abitest helper:debuggee' \
    "break ${D}_main" run 'watch *(int *)&abitest::debuggee::DEBUGGEE_COUNTER' continue continue continue 'delete' continue

echo '--- a hardware breakpoint and steps'
session '/usr/bin/abitest helper:debuggee' \
    "break ${D}_main" run "hbreak ${D}_inner" continue 'stepi' 'stepi' 'print $pc > 0' 'set $x0 = 7' 'print $x0' finish 'delete' continue

echo '--- the child of a fork'
session '/usr/bin/abitest helper:debuggee' \
    'set follow-fork-mode child' "break ${D}_child" run 'backtrace 1' continue

echo '--- both sides of a fork'
session '/usr/bin/abitest helper:debuggee' \
    'catch fork' run 'delete' continue

echo '--- a crash with threads'
session '/usr/bin/abitest helper:core' run 'backtrace 3' 'print (int) $_siginfo.si_signo' 'print $_siginfo._sifields._sigfault.si_addr' kill | grep -v '^\[New'

echo '--- attached to and left'
sleep 3 &
sleeper=$!
usleep 300000
gdb -nx -batch -iex 'set debuginfod enabled off' -p $sleeper -ex 'print $pc > 0' -ex 'print (long) $x8' -ex detach 2>&1 </dev/null | grep '^\$\|Detaching\|detached' | even
grep State /proc/$sleeper/status
wait $sleeper
echo "the sleeper: $?"

echo '--- through gdbserver'
session '/usr/bin/abitest helper:debuggee' \
    'target remote | gdbserver --once - /usr/bin/abitest helper:debuggee' "break ${D}_inner" continue 'backtrace 2' 'delete' \
    'watch *(int *)&abitest::debuggee::DEBUGGEE_COUNTER' continue continue delete continue
