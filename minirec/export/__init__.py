"""What a run hands over: the ordered subset for other trainers, and the policy."""
