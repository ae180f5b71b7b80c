# report.sh: what scripts that print PASS|FAIL|SKIP lines share; each sources it.

# report STATUS NAME LOG LINES: the line of a case; 77 means skipped, with the log's last line as the reason.
# A failure shows the log's first lines and is the status.
report() {
    case $1 in
    0)  echo "PASS $2" ;;
    77) echo "SKIP $2: $(tail -n 1 "$3")" ;;
    *)  echo "FAIL $2"; head -n "$4" "$3" | sed 's/^/    /'; return 1 ;;
    esac
}
