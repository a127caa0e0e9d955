"""Private swarms: who is a member, what members seal from others, and a network that only they see."""
