"""What a build is going to cost."""
