"""The simulators' speed, beside the program a good user would write instead and beside the machine's own limits."""
