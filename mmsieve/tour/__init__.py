"""What the demo does, command by command, and what is known of its pools beforehand."""
