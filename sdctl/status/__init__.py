"""What runs of a deployment on AWS: reads at once, and pure rows of what they found."""
