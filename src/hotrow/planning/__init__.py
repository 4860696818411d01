"""Where rows live: the machine as measured, what a plan costs, and the search for the best one."""
