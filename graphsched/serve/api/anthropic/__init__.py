"""`/v1/messages`, as Anthropic has it: its clients talk to this server as to theirs."""
