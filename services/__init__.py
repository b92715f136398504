"""The five services of Millrace; none imports another."""
