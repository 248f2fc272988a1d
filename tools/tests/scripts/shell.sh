seq 1 3
